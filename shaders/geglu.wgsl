// geglu: out[t, i] = gelu(gate[t, i]) * up[t, i]
//   Behind gates.wgsl, elementwise.wgsl, with the gate as x. Meaning: device/reference.py geglu. Twin: device/c/elementwise.c.

fn combine(gate: f32, up: f32) -> f32 {
    return gelu_4(vec4<f32>(gate)).x * up;
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    combine_all(group, groups, tid);
}
