// repack_float: F32, F16 and BF16 for quant_f32.wgsl, quant_f16.wgsl and quant_bf16.wgsl. The same numbers, each row padded with
//   zeros to whole units. Any n.

override HALVES: u32;  // 1: two bytes a weight

@group(0) @binding(3) var<storage, read_write> wa: array<vec4<u32>>;

// Word k of a row.
fn word_of(row: u32, k: u32) -> u32 {
    if (HALVES == 0u) {
        if (k < params.n) { return raw[row * params.n + k]; }
        return 0u;
    }
    let at = (row * params.n + 2u * k) << 1u;
    if (2u * k + 1u < params.n) { return word_at(at); }
    if (2u * k < params.n) { return half_at(at); }
    return 0u;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let t = group_index(group, groups) * WG + tid;
    if (t >= params.n_threads) { return; }
    let row_vecs = params.units << (3u - HALVES);
    let row = t / row_vecs;
    let k = (t - row * row_vecs) << 2u;
    wa[params.first_row * row_vecs + t] = vec4<u32>(word_of(row, k), word_of(row, k + 1u), word_of(row, k + 2u), word_of(row, k + 3u));
}
