// causal_conv: y[t, i] = sum over j of w[i, j] * x[t - taps + 1 + j, i]; the window holds the rows before x and is moved on.
//   x, y: f32 (T, n), window: f32 (taps - 1, n), w: n rows of taps, each padded to `stride` elements. Any n, any taps.
//   PARTS 1: y, a grid over columns and rows. 2: the window, a grid over columns. 3: both, a grid over columns, so that each
//   thread has done with its channel's window before it moves it; for a few tokens that saves a dispatch.
//   Products are added in the order of j. Meaning: device/reference.py causal_conv. Twin: device/c/conv.c.

struct Params { n: u32, taps: u32, stride: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> w: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read_write> window: array<f32>;

override PARTS: u32 = 3;

// Row p of the window followed by x.
fn past(p: u32, i: u32) -> f32 {
    let before = params.taps - 1u;
    if (p < before) { return window[p * params.n + i]; }
    return x[(p - before) * params.n + i];
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    let n_tokens = n_rows(0u);
    for (var i = group.x * WG + tid; i < params.n; i += groups.x * WG) {
        if ((PARTS & 1u) != 0u) {
            for (var t = group.y; t < n_tokens; t += groups.y) {
                var sum = 0.0;
                for (var j = 0u; j < params.taps; j++) { sum += past(t + j, i) * w[i * params.stride + j]; }
                y[t * params.n + i] = sum;
            }
        }
        if ((PARTS & 2u) != 0u) {
            // Upwards: a row that is still to be read lies above the one written.
            for (var p = 0u; p + 1u < params.taps; p++) { window[p * params.n + i] = past(n_tokens + p, i); }
        }
    }
}
