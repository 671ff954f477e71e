// swiglu_oai: out[t, i] = gate * sigmoid(ALPHA * gate) * (up + 1), gate at most LIMIT, up between -LIMIT and LIMIT
//   Behind sigmoid.wgsl, elementwise.wgsl, with the gate as x. Meaning: device/reference.py swiglu_oai. Twin:
//   device/c/elementwise.c.

override ALPHA: f32 = 1.702;
override LIMIT: f32 = 7.0;

fn combine(gate: f32, up: f32) -> f32 {
    let g = min(gate, LIMIT);
    return g * sigmoid(ALPHA * g) * (clamp(up, -LIMIT, LIMIT) + 1.0);
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    combine_all(group, groups, tid);
}
