// expert_add: y[t, u, i] = x[t, u, i] + w[experts[t, u], i]
//   x, y: f32 (T, n_used * n), w: f32 (n_experts, n), each row padded to `stride`, experts: (T, n_used), any n. A row here is what
//   one expert gave: n elements.
//   Meaning: device/reference.py expert_add. Twin: device/c/elementwise.c.

struct Params { n: u32, n_used: u32, stride: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> w: array<f32>;
@group(0) @binding(4) var<storage, read> experts: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    for (var p = group.y; p < n_rows(0u) * params.n_used; p += groups.y) {
        let row = experts[p] * params.stride;
        for (var i = group.x * WG + tid; i < params.n; i += groups.x * WG) {
            y[p * params.n + i] = x[p * params.n + i] + w[row + i];
        }
    }
}
