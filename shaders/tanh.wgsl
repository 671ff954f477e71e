// tanh_4: the hyperbolic tangent to within some units in the last place, of any size; WGSL's own may be sinh / cosh, of which
//   both overflow, and of small numbers loses what digits there are.

fn tanh_4(x: vec4<f32>) -> vec4<f32> {
    let s = x * x;
    // Its Taylor series below a quarter: x - x^3/3 + 2 x^5/15 - 17 x^7/315 + 62 x^9/2835.
    let near = x + x * s * (-0.33333333 + s * (0.13333333 + s * (-0.05396825 + s * 0.021869488)));
    let far = sign(x) * (1.0 - 2.0 / (1.0 + exp(min(2.0 * abs(x), vec4<f32>(40.0)))));
    return select(far, near, s < vec4<f32>(0.0625));
}
