// What the matmuls share: their params, a weight's two streams (device/gpu_layout.py) and what becomes of a gate.
//   Behind gates.wgsl.

struct Params {
    units: u32,    // of 32 weights, in a row
    n: u32,        // elements of a row of x
    n_rows: u32,   // of the weight, that this dispatch computes
    at: u32,       // where the first of them lies among the binding's rows
    first: u32,    // which column of y it gives
    width: u32,    // of a row of y
    up: u32,       // rows from a gate's to its up matrix
    eps: f32,      // of the norm in front
    end_0: u32,    // columns of the first output, of the first two together: out_three.wgsl
    end_1: u32,
    width_1: u32,  // of a row of the second and the third output
    width_2: u32,
    n_used: u32,   // experts a token: pick_expert.wgsl; or heads that the binding has: pick_head.wgsl
    per_expert: u32,  // 1 where each of them has a row of x of its own; or heads of a row of x
    expert_rows: u32, // rows of an expert's or a head's matrix
    first_expert: u32, // that the binding has
    is_out: u32,   // 1 where x has a row for each wanted row of logits, not for each token
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> wa: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> wb: array<u32>;

struct X32 { a: mat4x4<f32>, b: mat4x4<f32> }  // 32 elements of a row of x, as a unit has its weights

fn dot_16(a: mat4x4<f32>, b: mat4x4<f32>) -> f32 {
    return dot(a[0], b[0]) + dot(a[1], b[1]) + (dot(a[2], b[2]) + dot(a[3], b[3]));
}

fn sum_16(a: mat4x4<f32>) -> f32 {
    let s = a[0] + a[1] + (a[2] + a[3]);
    return s.x + s.y + (s.z + s.w);
}

override GELU: bool = false;

fn gated_4(gate: vec4<f32>) -> vec4<f32> {
    if (GELU) { return gelu_4(gate); }
    return silu_4(gate);
}

fn gated(gate: f32) -> f32 {
    return gated_4(vec4<f32>(gate)).x;
}
