// swiglu: out[t, i] = silu(gate[t, i]) * up[t, i], silu(x) = x / (1 + exp(-x))
//   Behind elementwise.wgsl, with the gate as x. Meaning: device/reference.py swiglu. Twin: device/c/elementwise.c.

// Below -87, where silu is 0 to within 2e-36, exp(-x) leaves the range in which division is exact, and then that of f32; WGSL
// need not have infinity.
fn combine(gate: f32, up: f32) -> f32 {
    return select(gate / (1.0 + exp(-max(gate, -87.0))), 0.0, gate < -87.0) * up;
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    combine_all(group, groups, tid);
}
