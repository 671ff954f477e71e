// repack_q8_0: Q8_0 blocks (gguf/quants/legacy.py) for quant_q8_0.wgsl.

const BLOCK = 34u;  // bytes

@group(0) @binding(3) var<storage, read_write> wa: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> wb: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let t = group_index(group, groups) * WG + tid;
    if (t >= params.n_threads) { return; }
    let block = t * BLOCK;
    let at = (params.first_row * params.units + t) << 1u;
    wa[at] = four_words_at(block + 2u);
    wa[at + 1u] = four_words_at(block + 18u);
    let row = t / params.units;
    let u = t - row * params.units;
    if ((u & 1u) == 1u) { return; }
    var d = half_at(block);
    if (u + 1u < params.units) { d |= half_at(block + BLOCK) << 16u; }
    wb[(params.first_row + row) * ((params.units + 1u) >> 1u) + (u >> 1u)] = d;
}
