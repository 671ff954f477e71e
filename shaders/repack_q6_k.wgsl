// repack_q6_k: Q6_K superblocks (gguf/quants/k.py) for quant_q6_k.wgsl.

@group(0) @binding(3) var<storage, read_write> wa: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> wb: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let t = group_index(group, groups) * WG + tid;
    if (t >= params.n_threads) { return; }
    let i = t & 7u;  // of the superblock's units
    let upper = i >> 2u;
    let block = (t >> 3u) * 210u;
    let at = params.first_row * params.units + t;
    wa[at] = nibbles_at(block + (upper << 6u) + ((i & 1u) << 5u), (i >> 1u) & 1u);
    let to = (at >> 3u) * 21u;
    let high = two_bits_at(block + 128u + (upper << 5u), i & 3u);
    wb[to + 5u + (i << 1u)] = high.x;
    wb[to + 6u + (i << 1u)] = high.y;
    if ((i & 1u) == 0u) { wb[to + 1u + (i >> 1u)] = word_at(block + 192u + (i << 1u)); }
    if (i == 0u) { wb[to] = half_at(block + 208u); }
}
