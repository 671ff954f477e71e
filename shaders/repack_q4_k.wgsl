// repack_q4_k: Q4_K and Q5_K superblocks (gguf/quants/k.py) for quant_q4_k.wgsl and quant_q5_k.wgsl.

override HAS_FIFTH: u32;  // 1: Q5_K

@group(0) @binding(3) var<storage, read_write> wa: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> wb: array<u32>;

// Bytes scale, min, scale, min of units i and i + 1, i even, from their six-bit fields.
fn scales_at(at: u32, i: u32) -> u32 {
    let first = word_at(at);
    let second = word_at(at + 4u);
    var scales = first & 0x3F3F3F3Fu;
    var mins = second & 0x3F3F3F3Fu;
    if (i >= 4u) {
        let third = word_at(at + 8u);
        scales = (third & 0x0F0F0F0Fu) | ((first >> 2u) & 0x30303030u);
        mins = ((third >> 4u) & 0x0F0F0F0Fu) | ((second >> 2u) & 0x30303030u);
    }
    let s = scales >> ((i & 2u) << 3u);
    let m = mins >> ((i & 2u) << 3u);
    return (s & 255u) | ((m & 255u) << 8u) | ((s & 0xFF00u) << 8u) | ((m & 0xFF00u) << 16u);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let t = group_index(group, groups) * WG + tid;
    if (t >= params.n_threads) { return; }
    let i = t & 7u;  // of the superblock's units
    let block = (t >> 3u) * (144u + 32u * HAS_FIFTH);
    let at = params.first_row * params.units + t;
    wa[at] = nibbles_at(block + 16u + 32u * HAS_FIFTH + ((i >> 1u) << 5u), i & 1u);
    let to = (at >> 3u) * (5u + 8u * HAS_FIFTH);
    if (HAS_FIFTH == 1u) { wb[to + 5u + i] = bits_at(block + 16u, i); }
    if ((i & 1u) == 0u) { wb[to + 1u + (i >> 1u)] = scales_at(block + 4u, i); }
    if (i == 0u) { wb[to] = word_at(block); }
}
