// repack_iq4_xs: IQ4_XS superblocks (gguf/quants/iq.py) for quant_iq4_xs.wgsl, which has the same fields, nibbles apart from the rest.

@group(0) @binding(3) var<storage, read_write> wa: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> wb: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let t = group_index(group, groups) * WG + tid;
    if (t >= params.n_threads) { return; }
    let i = t & 7u;  // of the superblock's units
    let block = (t >> 3u) * 136u;
    let at = params.first_row * params.units + t;
    wa[at] = four_words_at(block + 8u + (i << 4u));
    if (i < 2u) { wb[((at >> 3u) << 1u) + i] = word_at(block + (i << 2u)); }
}
