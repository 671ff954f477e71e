// repack_q3_k: Q3_K superblocks (gguf/quants/k.py) for quant_q3_k.wgsl.

const BLOCK = 110u;  // bytes

@group(0) @binding(3) var<storage, read_write> wa: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> wb: array<u32>;

// Scales 4i to 4i + 3 as i8, 32 subtracted; the top bit lends, so that no byte takes from its neighbour.
fn scales_at(at: u32, i: u32) -> u32 {
    let low = (word_at(at + ((i & 1u) << 2u)) >> ((i >> 1u) << 2u)) & 0x0F0F0F0Fu;
    let high = (word_at(at + 8u) >> (i << 1u)) & 0x03030303u;
    return ((low | (high << 4u) | 0x80808080u) - 0x20202020u) ^ 0x80808080u;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let t = group_index(group, groups) * WG + tid;
    if (t >= params.n_threads) { return; }
    let i = t & 7u;  // of the superblock's units
    let block = (t >> 3u) * BLOCK;
    wa[params.first_row * params.units + t] = two_bits_at(block + 32u + ((i >> 2u) << 5u), i & 3u);
    let blocks = params.units >> 3u;
    let row = (t >> 3u) / blocks;
    let b = (t >> 3u) - row * blocks;
    let first = (params.first_row + row) * (12u * blocks + ((blocks + 1u) >> 1u));
    wb[first + 12u * b + 4u + i] = bits_at(block, i);
    if ((i & 1u) == 0u) { wb[first + 12u * b + (i >> 1u)] = scales_at(block + 96u, i >> 1u); }
    if (i == 0u && (b & 1u) == 0u) {
        var d = half_at(block + 108u);
        if (b + 1u < blocks) { d |= half_at(block + BLOCK + 108u) << 16u; }
        wb[first + 12u * blocks + (b >> 1u)] = d;
    }
}
