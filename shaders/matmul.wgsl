// matmul: y[t, j] = sum over i of w[j, i] * x[t, i], for single rows of x: a read of the whole weight for each of them.
//   x: f32 (T, n); w: rows in two streams, by the format's load_unit; which row of x, the grid's z says.
//   WG threads take ROWS rows of w for each LANES threads, which go along the rows side by side, a unit of 32 weights each, so that
//   their reads of 16 bytes lie next to each other. GATE: two rows of a gate and the same two of the matrix that is `up` rows
//   further, which give silu(gate) * up, or gelu.
//   Around it: quant_*.wgsl, x_*.wgsl, dot_*.wgsl, pick_*.wgsl, reduce_*.wgsl, out_*.wgsl. Meaning: device/reference.py matmul, swiglu, geglu.

override WG: u32 = 64;
override LANES: u32 = 8;  // a power of two
override ROWS: u32 = 4;   // 1, 2 or 4
override GATE: bool = false;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let lane = tid & (LANES - 1u);
    let p = pick(group.z);
    let per_group = select(ROWS, 2u, GATE);
    let n = select(params.n_rows, params.expert_rows, params.n_used > 0u);
    let row = (group_index(group, groups) * (WG / LANES) + tid / LANES) * per_group;
    let last = n - 1u;
    let r0 = p.at + min(row, last);
    let r1 = p.at + min(row + 1u, last);
    let r2 = select(p.at + min(row + 2u, last), r0 + params.up, GATE);
    let r3 = select(p.at + min(row + 3u, last), r1 + params.up, GATE);
    var acc = vec4<f32>(0.0, 0.0, 0.0, 0.0);
    if (p.there) {
        for (var u = lane; u < params.units; u += LANES) {
            let part = part_at(p.x_row, u);
            acc.x += part_dot(weights_at(r0, u), part);
            if (ROWS > 1u || GATE) { acc.y += part_dot(weights_at(r1, u), part); }
            if (ROWS > 2u || GATE) {
                acc.z += part_dot(weights_at(r2, u), part);
                acc.w += part_dot(weights_at(r3, u), part);
            }
        }
    }
    let sum = reduce(tid, lane, acc, x_squares());
    if (lane != 0u || !p.there) { return; }
    let y4 = sum.acc * x_scale(sum.squares);
    let column = p.column + row;
    if (GATE) {
        if (row < n) { emit(p.y_row, column, gated(y4.x) * y4.z); }
        if (row + 1u < n) { emit(p.y_row, column + 1u, gated(y4.y) * y4.w); }
        return;
    }
    if (row < n) { emit(p.y_row, column, y4.x); }
    if (ROWS > 1u && row + 1u < n) { emit(p.y_row, column + 1u, y4.y); }
    if (ROWS > 2u && row + 2u < n) { emit(p.y_row, column + 2u, y4.z); }
    if (ROWS > 2u && row + 3u < n) { emit(p.y_row, column + 3u, y4.w); }
}
