// concat: of each group of columns x's and then y's.
//   x: f32 (T, n_groups * of_x), y: f32 (T, n_groups * of_y), out: f32 (T, n_groups * (of_x + of_y)). A row here is a group.
//   Meaning: device/reference.py concat. Twin: device/c/elementwise.c.

struct Params { of_x: u32, of_y: u32, are_out: u32, n_groups: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> y: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    let n = params.of_x + params.of_y;
    for (var p = group.y; p < n_rows(params.are_out) * params.n_groups; p += groups.y) {
        for (var i = group.x * WG + tid; i < n; i += groups.x * WG) {
            if (i < params.of_x) {
                out[p * n + i] = x[p * params.of_x + i];
            } else {
                out[p * n + i] = y[p * params.of_y + i - params.of_x];
            }
        }
    }
}
