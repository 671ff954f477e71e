// div: out[t, i] = x[t, i] / y[t, i]; y may be one row for all rows, or one number.
//   Behind elementwise.wgsl. Meaning: device/reference.py div. Twin: device/c/elementwise.c.

fn combine(x: f32, y: f32) -> f32 {
    return x / y;
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    combine_all(group, groups, tid);
}
