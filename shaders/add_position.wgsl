// add_position: y[t, i] = x[t, i] + w[pos + t, i]
//   x, y: f32 (T, n), w: f32 n_positions rows of n elements, each padded to `stride`. Any n.
//   Meaning: device/reference.py add_position. Twin: device/c/elementwise.c.

struct Params { n: u32, stride: u32, n_positions: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> w: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    for (var t = group.y; t < n_rows(0u); t += groups.y) {
        let row = min(state.pos + t, params.n_positions - 1u) * params.stride;
        for (var i = group.x * WG + tid; i < params.n; i += groups.x * WG) {
            y[t * params.n + i] = x[t * params.n + i] + w[row + i];
        }
    }
}
