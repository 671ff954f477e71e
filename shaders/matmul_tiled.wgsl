// matmul_tiled: y[t, j] = sum over i of w[j, i] * x[t, i], for many rows of x.
//   A workgroup makes TILE columns of y for TILE tokens, a thread 4 x 4 of them. For each unit of 32 weights, TILE threads bring a row of
//   the weight each into workgroup memory as f32, as many others a row of x; a weight is unpacked once for TILE tokens.
//   Rows lie as 8 vec4, turned by the row's number, so that threads that read neighbouring rows meet different banks.
//   HEADED: each head's part of a row of x has a matrix of its own, of n_rows rows; the grid's z counts heads.
//   Around it: quant_*.wgsl, x_*.wgsl, tile_*.wgsl, out_*.wgsl. Meaning: device/reference.py matmul, head_matmul.

override TILE: u32 = 64;                    // 64 or 32
override WG: u32 = 256;                     // TILE * TILE / 16
override CELLS: u32 = 512;                  // TILE * 8
override HEADED: bool = false;

var<workgroup> tile_w: array<Tile4, CELLS>;
var<workgroup> tile_x: array<Tile4, CELLS>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let side = TILE / 4u;
    let column = tid & (side - 1u);
    let token = tid / side;
    let n_tokens = select(state.n_tokens, state.n_out, params.is_out == 1u);
    let head = select(0u, group.z, HEADED);
    let row_w = params.at + head * params.n_rows + min(group.x * TILE + (tid & (TILE - 1u)), params.n_rows - 1u);
    var row_x = min(group.y * TILE + (tid & (TILE - 1u)), n_tokens - 1u);
    if (HEADED) { row_x = row_x * params.per_expert + params.first_expert + head; }
    let at = (tid & (TILE - 1u)) * 8u;
    let turn = tid & 7u;
    var acc_0 = vec4<f32>(0.0, 0.0, 0.0, 0.0);  // of token `token`, columns column, column + side, ...
    var acc_1 = vec4<f32>(0.0, 0.0, 0.0, 0.0);
    var acc_2 = vec4<f32>(0.0, 0.0, 0.0, 0.0);
    var acc_3 = vec4<f32>(0.0, 0.0, 0.0, 0.0);
    for (var u = 0u; u < params.units; u++) {
        workgroupBarrier();
        if (tid < TILE) {
            let w = load_unit(row_w, u);
            var m_a = vec4<f32>(0.0, 0.0, 0.0, 0.0);
            var m_b = vec4<f32>(0.0, 0.0, 0.0, 0.0);
            if (HAS_MIN) {
                m_a += w.ma;
                m_b += w.mb;
            }
            tile_w[at + (0u ^ turn)] = tiled(w.a[0] * w.da + m_a);
            tile_w[at + (1u ^ turn)] = tiled(w.a[1] * w.da + m_a);
            tile_w[at + (2u ^ turn)] = tiled(w.a[2] * w.da + m_a);
            tile_w[at + (3u ^ turn)] = tiled(w.a[3] * w.da + m_a);
            tile_w[at + (4u ^ turn)] = tiled(w.b[0] * w.db + m_b);
            tile_w[at + (5u ^ turn)] = tiled(w.b[1] * w.db + m_b);
            tile_w[at + (6u ^ turn)] = tiled(w.b[2] * w.db + m_b);
            tile_w[at + (7u ^ turn)] = tiled(w.b[3] * w.db + m_b);
        } else if (tid < 2u * TILE) {
            let v = x_unit(row_x, u);
            tile_x[at + (0u ^ turn)] = tiled(v.a[0]);
            tile_x[at + (1u ^ turn)] = tiled(v.a[1]);
            tile_x[at + (2u ^ turn)] = tiled(v.a[2]);
            tile_x[at + (3u ^ turn)] = tiled(v.a[3]);
            tile_x[at + (4u ^ turn)] = tiled(v.b[0]);
            tile_x[at + (5u ^ turn)] = tiled(v.b[1]);
            tile_x[at + (6u ^ turn)] = tiled(v.b[2]);
            tile_x[at + (7u ^ turn)] = tiled(v.b[3]);
        }
        workgroupBarrier();
        for (var k = 0u; k < 8u; k++) {
            let kw = k ^ (column & 7u);
            let kx = k ^ (token & 7u);
            let w0 = vec4<f32>(tile_w[column * 8u + kw]);
            let w1 = vec4<f32>(tile_w[(column + side) * 8u + kw]);
            let w2 = vec4<f32>(tile_w[(column + 2u * side) * 8u + kw]);
            let w3 = vec4<f32>(tile_w[(column + 3u * side) * 8u + kw]);
            let x0 = vec4<f32>(tile_x[token * 8u + kx]);
            let x1 = vec4<f32>(tile_x[(token + side) * 8u + kx]);
            let x2 = vec4<f32>(tile_x[(token + 2u * side) * 8u + kx]);
            let x3 = vec4<f32>(tile_x[(token + 3u * side) * 8u + kx]);
            acc_0 += vec4<f32>(dot(w0, x0), dot(w1, x0), dot(w2, x0), dot(w3, x0));
            acc_1 += vec4<f32>(dot(w0, x1), dot(w1, x1), dot(w2, x1), dot(w3, x1));
            acc_2 += vec4<f32>(dot(w0, x2), dot(w1, x2), dot(w2, x2), dot(w3, x2));
            acc_3 += vec4<f32>(dot(w0, x3), dot(w1, x3), dot(w2, x3), dot(w3, x3));
        }
    }
    let j = group.x * TILE + column;
    let t = group.y * TILE + token;
    let first = select(params.first, (params.first_expert + head) * params.n_rows, HEADED);
    put(t, j, acc_0, n_tokens, first);
    put(t + side, j, acc_1, n_tokens, first);
    put(t + 2u * side, j, acc_2, n_tokens, first);
    put(t + 3u * side, j, acc_3, n_tokens, first);
}

fn put(t: u32, j: u32, v: vec4<f32>, n_tokens: u32, first: u32) {
    if (t >= n_tokens) { return; }
    let side = TILE / 4u;
    if (j < params.n_rows) { emit(t, first + j, v.x); }
    if (j + side < params.n_rows) { emit(t, first + j + side, v.y); }
    if (j + 2u * side < params.n_rows) { emit(t, first + j + 2u * side, v.z); }
    if (j + 3u * side < params.n_rows) { emit(t, first + j + 3u * side, v.w); }
}
