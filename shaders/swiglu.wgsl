// swiglu: out[t, i] = silu(gate[t, i]) * up[t, i], silu(x) = x / (1 + exp(-x))
//   gate, up, out: f32 (T, n), any n. In place as in add.wgsl (IN_PLACE: 1 gate, 2 up, 3 both).
//   Meaning: device/reference.py swiglu. Twin: device/c/elementwise.c.

struct Params { n: u32, are_out: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> gate: array<f32>;
@group(0) @binding(3) var<storage, read> up: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

override IN_PLACE: u32 = 0;

// Below -87, where silu is 0 to within 2e-36, exp(-x) leaves the range in which division is exact, and then that of f32; WGSL
// need not have infinity.
fn silu(x: f32) -> f32 {
    return select(x / (1.0 + exp(-max(x, -87.0))), 0.0, x < -87.0);
}

fn gate_at(at: u32) -> f32 {
    if ((IN_PLACE & 1u) != 0u) { return out[at]; }
    return gate[at];
}

fn up_at(at: u32) -> f32 {
    if ((IN_PLACE & 2u) != 0u) { return out[at]; }
    return up[at];
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    for (var t = group.y; t < n_rows(params.are_out); t += groups.y) {
        for (var i = group.x * WG + tid; i < params.n; i += groups.x * WG) {
            let at = t * params.n + i;
            out[at] = silu(gate_at(at)) * up_at(at);
        }
    }
}
