// sigmoid: 1 / (1 + exp(-x)). Below -87 it is held at what it is there, 2e-38: past that exp(-x) leaves the range of f32, and WGSL
//   need not have infinity.

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-max(x, -87.0)));
}
