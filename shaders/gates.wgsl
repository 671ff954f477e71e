// silu_4, gelu_4: what becomes of a gate. Where exp would leave the range of f32 it is held at its end, and the result is 0 to
//   within 1e-36 of what came in.

fn silu_4(v: vec4<f32>) -> vec4<f32> {
    return v / (1.0 + exp(-max(v, vec4<f32>(-87.0))));
}

// v/2 (1 + tanh(u)), u = sqrt(2/pi) (v + 0.044715 v^3), which is v / (1 + exp(-2 u)). Past 30 it is v or 0 whatever the cube.
fn gelu_4(v: vec4<f32>) -> vec4<f32> {
    let c = clamp(v, vec4<f32>(-30.0), vec4<f32>(30.0));
    let twice_u = 1.5957691216 * c * (1.0 + 0.044715 * c * c);
    return v / (1.0 + exp(-max(twice_u, vec4<f32>(-87.0))));
}
