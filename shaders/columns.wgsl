// columns: of each group of columns of x the n from `start` on.
//   x: f32 (T, n_groups * width), y: f32 (T, n_groups * n), any n. A row here is a group: `width` elements of x, n of y.
//   Meaning: device/reference.py columns. Twin: device/c/elementwise.c.

struct Params { n: u32, are_out: u32, n_groups: u32, width: u32, start: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    for (var p = group.y; p < n_rows(params.are_out) * params.n_groups; p += groups.y) {
        for (var i = group.x * WG + tid; i < params.n; i += groups.x * WG) {
            y[p * params.n + i] = x[p * params.width + params.start + i];
        }
    }
}
