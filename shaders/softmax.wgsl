// softmax: y[t, i] = exp(x[t, i] - max(x[t, :])) / sum over i of the same
//   x, y: f32 (T, n), any n. One workgroup a row; sums are taken as in rms_norm.wgsl.
//   Meaning: device/reference.py softmax. Twin: device/c/softmax.c.

struct Params { n: u32, are_out: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    let t = group_index(group, groups);
    if (t >= n_rows(params.are_out)) { return; }
    let row = t * params.n;
    var most = x[row];
    for (var i = tid; i < params.n; i += WG) { most = max(most, x[row + i]); }
    let largest = group_max(tid, most);
    var sum = 0.0;
    for (var i = tid; i < params.n; i += WG) {
        let e = exp(x[row + i] - largest);
        y[row + i] = e;
        sum += e;
    }
    let total = group_sum(tid, sum);
    for (var i = tid; i < params.n; i += WG) { y[row + i] /= total; }  // each thread what it wrote itself
}
