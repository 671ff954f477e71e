// matmul_few: y[t, j] = sum over i of w[j, i] * x[t, i], for rows of x four at a time: a weight is read and unpacked once for four.
//   x: f32 (T, n); w: rows in two streams, by the format's load_unit; a quarter of T, rounded up, is the grid's z.
//   WG threads take ROWS rows of w for each LANES threads, which go along the rows side by side, a unit of 32 weights each. GATE:
//   every second of the ROWS is of a gate, the one behind it the same row of the matrix `up` rows further: silu(gate) * up, or gelu.
//   HEADED: each head's part of a row of x has a matrix of its own, of n_rows rows; z then counts heads, and quarters of T.
//   A program that imitates a GPU pays for loads, whatever lies where: for it, many rows in one thread's registers and one lane.
//   Around it: quant_*.wgsl, x_*.wgsl, dot_*.wgsl, reduce_*.wgsl, out_*.wgsl. Meaning: device/reference.py matmul, swiglu, geglu, head_matmul.

override WG: u32 = 64;
override LANES: u32 = 8;  // a power of two
override ROWS: u32 = 4;   // 2, 4 or 8
override GATE: bool = false;
override HEADED: bool = false;

fn first_token(z: u32) -> u32 {
    if (HEADED) { return z / params.n_used * 4u; }
    return z * 4u;
}

// The number of a head among those that the binding has.
fn head_of(z: u32) -> u32 { return z % params.n_used; }

fn rows_before(z: u32) -> u32 {
    if (HEADED) { return head_of(z) * params.n_rows; }
    return 0u;
}

fn x_row_of(t: u32, z: u32) -> u32 {
    if (HEADED) { return t * params.per_expert + params.first_expert + head_of(z); }
    return t;
}

fn first_column(z: u32) -> u32 {
    if (HEADED) { return (params.first_expert + head_of(z)) * params.n_rows; }
    return params.first;
}

fn row_at(row: u32, i: u32) -> u32 {
    let last = params.n_rows - 1u;
    if (GATE) { return params.at + min(row + (i >> 1u), last) + (i & 1u) * params.up; }
    return params.at + min(row + i, last);
}

fn row_dots(row: u32, u: u32, p0: Part, p1: Part, p2: Part, p3: Part) -> vec4<f32> {
    let w = weights_at(row, u);
    return vec4<f32>(part_dot(w, p0), part_dot(w, p1), part_dot(w, p2), part_dot(w, p3));
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    let lane = tid & (LANES - 1u);
    let per_group = select(ROWS, ROWS >> 1u, GATE);
    let row = (group_index(group, groups) * (WG / LANES) + tid / LANES) * per_group;
    let t = first_token(group.z);
    let end = select(state.n_tokens, state.n_out, params.is_out == 1u) - 1u;
    let before = rows_before(group.z);
    let r0 = before + row_at(row, 0u);
    let r1 = before + row_at(row, 1u);
    let r2 = before + row_at(row, 2u);
    let r3 = before + row_at(row, 3u);
    let r4 = before + row_at(row, 4u);
    let r5 = before + row_at(row, 5u);
    let r6 = before + row_at(row, 6u);
    let r7 = before + row_at(row, 7u);
    var acc_0 = vec4<f32>(0.0, 0.0, 0.0, 0.0);  // of the four rows of x
    var acc_1 = acc_0;
    var acc_2 = acc_0;
    var acc_3 = acc_0;
    var acc_4 = acc_0;
    var acc_5 = acc_0;
    var acc_6 = acc_0;
    var acc_7 = acc_0;
    for (var u = lane; u < params.units; u += LANES) {
        let p0 = part_at(x_row_of(t, group.z), u);
        let p1 = part_at(x_row_of(min(t + 1u, end), group.z), u);
        let p2 = part_at(x_row_of(min(t + 2u, end), group.z), u);
        let p3 = part_at(x_row_of(min(t + 3u, end), group.z), u);
        acc_0 += row_dots(r0, u, p0, p1, p2, p3);
        acc_1 += row_dots(r1, u, p0, p1, p2, p3);
        if (ROWS > 2u) {
            acc_2 += row_dots(r2, u, p0, p1, p2, p3);
            acc_3 += row_dots(r3, u, p0, p1, p2, p3);
        }
        if (ROWS > 4u) {
            acc_4 += row_dots(r4, u, p0, p1, p2, p3);
            acc_5 += row_dots(r5, u, p0, p1, p2, p3);
            acc_6 += row_dots(r6, u, p0, p1, p2, p3);
            acc_7 += row_dots(r7, u, p0, p1, p2, p3);
        }
    }
    let first = first_column(group.z);
    pair(tid, lane, t, row, end, first, acc_0, acc_1);
    let next = select(2u, 1u, GATE);
    if (ROWS > 2u) { pair(tid, lane, t, row + next, end, first, acc_2, acc_3); }
    if (ROWS > 4u) {
        pair(tid, lane, t, row + 2u * next, end, first, acc_4, acc_5);
        pair(tid, lane, t, row + 3u * next, end, first, acc_6, acc_7);
    }
}

// Sums of two rows over the lanes, and what comes of them.
fn pair(tid: u32, lane: u32, t: u32, j: u32, end: u32, first: u32, mine_0: vec4<f32>, mine_1: vec4<f32>) {
    let sum_0 = over_lanes(tid, lane, mine_0);
    let sum_1 = over_lanes(tid, lane, mine_1);
    if (lane != 0u) { return; }
    if (GATE) {
        put(t, j, end, first, gated_4(sum_0) * sum_1);
        return;
    }
    put(t, j, end, first, sum_0);
    put(t, j + 1u, end, first, sum_1);
}

fn over_lanes(tid: u32, lane: u32, mine: vec4<f32>) -> vec4<f32> {
    var sum = mine;
    if (LANES > 1u) {
        sum = reduce(tid, lane, mine, 0.0).acc;
        workgroupBarrier();  // before what it read is written again
    }
    return sum;
}

fn put(t: u32, j: u32, end: u32, first: u32, v: vec4<f32>) {
    if (j >= params.n_rows) { return; }
    let column = first + j;
    emit(t, column, v.x);
    if (t + 1u <= end) { emit(t + 1u, column, v.y); }
    if (t + 2u <= end) { emit(t + 2u, column, v.z); }
    if (t + 3u <= end) { emit(t + 3u, column, v.w); }
}
