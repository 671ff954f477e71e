// unary: y[t, i] = f(x[t, i]), f by its number in program/ops.py FUNCTIONS, some with numbers a to d.
//   x, y: f32 (T, n), any n. Where y lies on x, it is bound as y alone (IN_PLACE).
//   Behind tanh.wgsl, sigmoid.wgsl, softplus.wgsl. Meaning: device/reference.py unary. Twin: device/c/elementwise.c.

struct Params { n: u32, are_out: u32, a: f32, b: f32, c: f32, d: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

override FUNCTION: u32 = 0;
override IN_PLACE: bool = false;

// 1 - erf(z) for z >= 0, to 1.2e-7. Source: Numerical Recipes, erfc by Chebyshev fitting.
fn erfc(z: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.5 * z);
    var p = -0.82215223 + t * 0.17087277;
    p = -1.13520398 + t * (1.48851587 + t * p);
    p = -0.18628806 + t * (0.27886807 + t * p);
    p = 0.37409196 + t * (0.09678418 + t * p);
    p = -1.26551223 + t * (1.00002368 + t * p);
    return t * exp(max(p - z * z, -87.0));
}

// x/2 (1 + erf(x / sqrt(2))). Past 14 it is x or 0.
fn gelu_erf(x: f32) -> f32 {
    let half_tail = 0.5 * erfc(min(abs(x), 14.0) * 0.70710678);
    return x * select(half_tail, 1.0 - half_tail, x > 0.0);
}

fn gelu(x: f32) -> f32 {
    let c = clamp(x, -30.0, 30.0);
    return x * sigmoid(1.5957691216 * c * (1.0 + 0.044715 * c * c));
}

// exp(x) - 1, for x <= 0; near 0 by its Taylor series, as little would be left of the difference.
fn expm1(x: f32) -> f32 {
    let near = x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * (1.0 + x / 6.0 * (1.0 + x / 7.0))))));
    return select(exp(x) - 1.0, near, x > -0.35);
}

fn xielu(x: f32) -> f32 {
    if (x > 0.0) { return params.b * x * x + params.c * x; }
    return params.a * (expm1(min(x, params.d)) - x) + params.c * x;
}

fn applied(x: f32) -> f32 {
    switch (FUNCTION) {
        case 0u: { return x * params.a; }
        case 1u: { return params.a * tanh_4(vec4<f32>(x / params.a)).x; }
        case 2u: { return clamp(x, params.a, params.b); }
        case 3u: { return gelu(x); }
        case 4u: { return gelu_erf(x); }
        case 5u: { return x * sigmoid(1.702 * x); }
        case 6u: { return x * sigmoid(x); }
        case 7u: { return max(x, 0.0); }
        case 8u: { return max(x, 0.0) * max(x, 0.0); }
        case 9u: { return sigmoid(x); }
        case 10u: { return softplus(x); }
        case 11u: { return tanh_4(vec4<f32>(x)).x; }
        case 12u: { return exp(x); }
        default: { return xielu(x); }
    }
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32
) {
    for (var t = group.y; t < n_rows(params.are_out); t += groups.y) {
        for (var i = group.x * WG + tid; i < params.n; i += groups.x * WG) {
            let at = t * params.n + i;
            if (IN_PLACE) { y[at] = applied(y[at]); } else { y[at] = applied(x[at]); }
        }
    }
}
