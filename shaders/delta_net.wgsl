// delta_net: the gated delta rule, token by token: s = s exp(g), s += k (beta (v - s^T k))^T, y = scale s^T q
//   q, k: f32 (T, n_k_heads * d), v, y: f32 (T, n_heads * d_v), g, beta: f32 (T, n_heads), past: f32 (n_heads, d, d_v), the state s
//   of each head, moved on. Any d up to 512, any d_v. A column of s changes by itself, so a workgroup takes WG / LANES columns of
//   a head, LANES threads each, every LANES-th row a thread, in registers for all tokens. Workgroups: (columns, heads).
//   With s' = s exp(g) and u = beta (v - s'^T k), y is scale (s'^T q + (k^T q) u): all three sums are taken at once, so that a token
//   takes one barrier. k and q are staged for the next token before it: of three places, one is written and two may be read.
//   Meaning: device/reference.py delta_net. Twin: device/c/scan.c.

struct Params { n_heads: u32, n_k_heads: u32, d_v: u32, scale: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> k: array<f32>;
@group(0) @binding(4) var<storage, read> v: array<f32>;
@group(0) @binding(5) var<storage, read> g: array<f32>;
@group(0) @binding(6) var<storage, read> beta: array<f32>;
@group(0) @binding(7) var<storage, read_write> past: array<f32>;
@group(0) @binding(8) var<storage, read_write> y: array<f32>;

override D: u32 = 128;
override LANES: u32 = 4;  // a power of two
override TILED: bool = false;  // head h has the keys of h % n_k_heads, else of h / (n_heads / n_k_heads)
override COLUMNS: u32 = WG / LANES;
override EACH: u32 = (D + LANES - 1u) / LANES;  // rows of a thread, at most 32
override ROWS: u32 = EACH * LANES;

const WG: u32 = 64u;

var<workgroup> staged: array<vec2<f32>, 3u * ROWS>;  // k, q
var<workgroup> sums: array<vec4<f32>, 2u * WG>;  // s'^T k, s'^T q, k^T q of each thread's rows; of every other token

fn stage(place: u32, t: u32, k_head: u32, tid: u32) {
    for (var i = tid; i < ROWS; i += WG) {
        var both = vec2<f32>(0.0);
        let at = (t * params.n_k_heads + k_head) * D + i;
        if (i < D) { both = vec2<f32>(k[at], q[at]); }
        staged[place * ROWS + i] = both;
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let head = group.y;
    var k_head = head / (params.n_heads / params.n_k_heads);
    if (TILED) { k_head = head % params.n_k_heads; }
    let column = group.x * COLUMNS + (tid & (COLUMNS - 1u));
    let lane = tid / COLUMNS;
    let there = column < params.d_v;
    let first = head * D * params.d_v + min(column, params.d_v - 1u);
    var s = array<f32, 32>(
        0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
        0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
    );
    for (var i = 0u; i < EACH; i++) {
        let row = lane + i * LANES;
        if (row < D) { s[i] = past[first + row * params.d_v]; }
    }
    stage(0u, 0u, k_head, tid);
    workgroupBarrier();

    var place = 0u;
    for (var t = 0u; t < state.n_tokens; t++) {
        let next = select(place + 1u, 0u, place == 2u);
        if (t + 1u < state.n_tokens) { stage(next, t + 1u, k_head, tid); }
        let of_head = t * params.n_heads + head;
        let decay = exp(g[of_head]);
        var mine = vec4<f32>(0.0);
        for (var i = 0u; i < EACH; i++) {
            let kq = staged[place * ROWS + lane + i * LANES];
            s[i] *= decay;
            mine += vec4<f32>(s[i] * kq.x, s[i] * kq.y, kq.x * kq.y, 0.0);
        }
        let half = (t & 1u) * WG;
        sums[half + tid] = mine;
        workgroupBarrier();
        var all = vec4<f32>(0.0);
        for (var l = 0u; l < LANES; l++) { all += sums[half + l * COLUMNS + (tid & (COLUMNS - 1u))]; }
        let at = of_head * params.d_v + min(column, params.d_v - 1u);
        let u = beta[of_head] * (v[at] - all.x);
        for (var i = 0u; i < EACH; i++) { s[i] += staged[place * ROWS + lane + i * LANES].x * u; }
        if (there && lane == 0u) { y[at] = params.scale * (all.y + all.z * u); }
        place = next;
    }

    for (var i = 0u; i < EACH; i++) {
        let row = lane + i * LANES;
        if (there && row < D) { past[first + row * params.d_v] = s[i]; }
    }
}
