// matmul: y[t, j] = sum over i of w[j, i] * x[t, i], for a few rows of x: a read of the whole weight for each of them.
//   x: f32 (T, n); w: rows in two streams, by the format's load_unit; T is the grid's z.
//   WG threads take ROWS rows of w for each LANES threads, which go along the rows side by side, a unit of 32 weights each, so that
//   their reads of 16 bytes lie next to each other. GATE: two rows of a gate and the same two of the matrix that is `up` rows
//   further, which give silu(gate) * up.
//   Around it: quant_*.wgsl, x_*.wgsl, pick_*.wgsl, reduce_*.wgsl, out_*.wgsl. Meaning: device/reference.py matmul, swiglu.

override WG: u32 = 64;
override LANES: u32 = 8;  // a power of two
override ROWS: u32 = 4;   // 1, 2 or 4
override GATE: bool = false;

fn row_dot(row: u32, u: u32, v: X32, sum_a: f32, sum_b: f32) -> f32 {
    let w = load_unit(row, u);
    var d = w.da * dot_16(w.a, v.a) + w.db * dot_16(w.b, v.b);
    if (HAS_MIN) { d += w.ma * sum_a + w.mb * sum_b; }
    return d;
}

fn silu(v: f32) -> f32 {
    return v / (1.0 + exp(-max(v, -87.0)));
}

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
            let v = x_unit(p.x_row, u);
            var sum_a = 0.0;
            var sum_b = 0.0;
            if (HAS_MIN) {
                sum_a = sum_16(v.a);
                sum_b = sum_16(v.b);
            }
            acc.x += row_dot(r0, u, v, sum_a, sum_b);
            if (ROWS > 1u || GATE) { acc.y += row_dot(r1, u, v, sum_a, sum_b); }
            if (ROWS > 2u || GATE) {
                acc.z += row_dot(r2, u, v, sum_a, sum_b);
                acc.w += row_dot(r3, u, v, sum_a, sum_b);
            }
        }
    }
    let sum = reduce(tid, lane, 0u, acc, x_squares());
    if (lane != 0u || !p.there) { return; }
    let y4 = sum.acc * x_scale(sum.squares);
    let column = p.column + row;
    if (GATE) {
        if (row < n) { emit(p.y_row, column, silu(y4.x) * y4.z); }
        if (row + 1u < n) { emit(p.y_row, column + 1u, silu(y4.y) * y4.w); }
        return;
    }
    if (row < n) { emit(p.y_row, column, y4.x); }
    if (ROWS > 1u && row + 1u < n) { emit(p.y_row, column + 1u, y4.y); }
    if (ROWS > 2u && row + 2u < n) { emit(p.y_row, column + 2u, y4.z); }
    if (ROWS > 2u && row + 3u < n) { emit(p.y_row, column + 3u, y4.w); }
}
