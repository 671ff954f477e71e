// repack_q2_k: Q2_K superblocks (gguf/quants/k.py) for quant_q2_k.wgsl.

@group(0) @binding(3) var<storage, read_write> wa: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> wb: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let t = group_index(group, groups) * WG + tid;
    if (t >= params.n_threads) { return; }
    let i = t & 7u;  // of the superblock's units
    let block = (t >> 3u) * 84u;
    let at = params.first_row * params.units + t;
    wa[at] = two_bits_at(block + 16u + ((i >> 2u) << 5u), i & 3u);
    let to = (at >> 3u) * 5u;
    if ((i & 1u) == 0u) { wb[to + 1u + (i >> 1u)] = word_at(block + (i << 1u)); }
    if (i == 0u) { wb[to] = word_at(block + 80u); }
}
