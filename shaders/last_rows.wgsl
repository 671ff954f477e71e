// last_rows: the rows of x at the end, whose logits are wanted.
//   x: f32 (T, n), y: f32 (n_out, n), any n.
//   Meaning: device/reference.py last_rows. Twin: device/c/elementwise.c.

struct Params { n: u32, are_out: u32 }  // are_out: of x

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    let before = n_rows(params.are_out) - state.n_out;
    for (var t = group.y; t < state.n_out; t += groups.y) {
        for (var i = group.x * WG + tid; i < params.n; i += groups.x * WG) {
            y[t * params.n + i] = x[(before + t) * params.n + i];
        }
    }
}
