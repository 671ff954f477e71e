// layer_norm: y[t, i] = (x[t, i] - mean) * w[i] / sqrt(mean((x[t, :] - mean)^2) + eps) + b[i], mean = mean(x[t, :]), n elements
// of a row at a time
//   x, y: f32 (T, n_groups * n), w, b: f32 (n), or of groups that have their own (n_groups, STRIDE), or absent. One workgroup a
//   group. Sums are taken as in rms_norm.wgsl. The mean is taken off before squaring: of a row far from 0 little would be left.
//   Meaning: device/reference.py layer_norm. Twin: device/c/norm.c.

struct Params { n: u32, eps: f32, are_out: u32, n_groups: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> w: array<f32>;
@group(0) @binding(4) var<storage, read> b: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

override HAS_W: bool = true;
override HAS_B: bool = true;
override STRIDE: u32 = 0;  // elements of w and b from a group's to the next one's

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    let t = group_index(group, groups);
    if (t >= n_rows(params.are_out) * params.n_groups) { return; }
    let row = t * params.n;
    var sum = 0.0;
    for (var i = tid; i < params.n; i += WG) { sum += x[row + i]; }
    let mean = group_sum(tid, sum) / f32(params.n);
    var squares = 0.0;
    for (var i = tid; i < params.n; i += WG) {
        let d = x[row + i] - mean;
        squares += d * d;
    }
    let scale = inverseSqrt(group_sum(tid, squares) / f32(params.n) + params.eps);
    var at = 0u;
    if (STRIDE > 0u) { at = (t % params.n_groups) * STRIDE; }
    for (var i = tid; i < params.n; i += WG) {
        var normed = (x[row + i] - mean) * scale;
        if (HAS_W) { normed *= w[at + i]; }
        if (HAS_B) { normed += b[at + i]; }
        y[row + i] = normed;
    }
}
