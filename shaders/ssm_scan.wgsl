// ssm_scan: a selective state space, token by token: s = s exp(dt' a) + dt' x b, y = sum over n of s c + d x, dt' = softplus(dt)
//   x, y: f32 (T, n_heads * p), dt: f32 (T, n_heads), b, c: f32 (T, n_groups * n), a: f32 of each head n or one number, A_STRIDE
//   from head to head, d: f32 of each head one, D_STRIDE apart (0: absent), past: f32 (n_heads * p, n), the state s of each element
//   of x, moved on. Any p, n up to 2048. Rows of s change by themselves: LANES threads take one, every LANES-th of its n elements
//   each, in registers for all tokens. Sums over lanes take one barrier a token: two places are written in turn.
//   Behind softplus.wgsl. Meaning: device/reference.py ssm_scan. Twin: device/c/scan.c.

struct Params { n_heads: u32, p: u32, heads_of_group: u32, n_groups: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> dt: array<f32>;
@group(0) @binding(4) var<storage, read> b: array<f32>;
@group(0) @binding(5) var<storage, read> c: array<f32>;
@group(0) @binding(6) var<storage, read> a: array<f32>;
@group(0) @binding(7) var<storage, read> d: array<f32>;
@group(0) @binding(8) var<storage, read_write> past: array<f32>;
@group(0) @binding(9) var<storage, read_write> y: array<f32>;

override N: u32 = 16;
override LANES: u32 = 8;  // a power of two
override A_STRIDE: u32 = 32;
override A_EACH: bool = true;  // n numbers of each head
override D_STRIDE: u32 = 0;
override EACH: u32 = (N + LANES - 1u) / LANES;  // elements of a thread, at most 32

const WG: u32 = 64u;

var<workgroup> sums: array<f32, 2u * WG>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    let n_rows = params.n_heads * params.p;
    let first = group_index(group, groups) * (WG / LANES);
    if (first >= n_rows) { return; }
    let lane = tid & (LANES - 1u);
    let there = first + tid / LANES < n_rows;
    let row = min(first + tid / LANES, n_rows - 1u);
    let head = row / params.p;
    let of_group = head / params.heads_of_group * N;
    var s = array<f32, 32>(
        0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
        0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
    );
    for (var i = 0u; i < EACH; i++) {
        if (lane + i * LANES < N) { s[i] = past[row * N + lane + i * LANES]; }
    }
    for (var t = 0u; t < state.n_tokens; t++) {
        let step = softplus(dt[t * params.n_heads + head]);
        let value = x[t * n_rows + row];
        let at = t * params.n_groups * N + of_group;
        var decay = 0.0;
        if (!A_EACH) { decay = exp(step * a[head * A_STRIDE]); }
        var mine = 0.0;
        for (var i = 0u; i < EACH; i++) {
            let e = lane + i * LANES;
            if (e < N) {
                if (A_EACH) { decay = exp(step * a[head * A_STRIDE + e]); }
                s[i] = s[i] * decay + value * step * b[at + e];
                mine += s[i] * c[at + e];
            }
        }
        let half = (t & 1u) * WG;
        sums[half + tid] = mine;
        workgroupBarrier();
        if (there && lane == 0u) {
            var sum = 0.0;
            for (var l = 0u; l < LANES; l++) { sum += sums[half + tid + l]; }
            if (D_STRIDE > 0u) { sum += value * d[head * D_STRIDE]; }
            y[t * n_rows + row] = sum;
        }
    }
    for (var i = 0u; i < EACH; i++) {
        if (there && lane + i * LANES < N) { past[row * N + lane + i * LANES] = s[i]; }
    }
}
