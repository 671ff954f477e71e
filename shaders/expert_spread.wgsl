// expert_spread: y[t, u, i] = x[t, i] * weights[t, u]
//   x: f32 (T, n), weights: f32 (T, n_used), y: f32 (T, n_used * n), any n.
//   Meaning: device/reference.py expert_spread. Twin: device/c/elementwise.c.

struct Params { n: u32, n_used: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    for (var p = group.y; p < n_rows(0u) * params.n_used; p += groups.y) {
        let row = (p / params.n_used) * params.n;
        for (var i = group.x * WG + tid; i < params.n; i += groups.x * WG) { y[p * params.n + i] = x[row + i] * weights[p]; }
    }
}
