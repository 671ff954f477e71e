// expert_sum: y[t, i] = sum over u of x[t, u, i] * weights[t, u], in the order of the experts; if not WEIGHTED, of x alone
//   x: f32 (T, n_used * n), weights: f32 (T, n_used), y: f32 (T, n), any n.
//   Meaning: device/reference.py expert_sum. Twin: device/c/elementwise.c.

struct Params { n: u32, n_used: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

override WEIGHTED: bool = true;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    for (var t = group.y; t < n_rows(0u); t += groups.y) {
        let first = t * params.n_used;
        for (var i = group.x * WG + tid; i < params.n; i += groups.x * WG) {
            var sum = 0.0;
            for (var u = 0u; u < params.n_used; u++) {
                let term = x[(first + u) * params.n + i];
                if (WEIGHTED) { sum += term * weights[first + u]; } else { sum += term; }
            }
            y[t * params.n + i] = sum;
        }
    }
}
