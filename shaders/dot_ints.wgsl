// dot_ints: a unit of a weight's row times 32 elements of x, both as i8, four to an instruction. x is what quantize.wgsl gives.
//   Around it: quant_*.wgsl of a format with load_ints. Its twin: dot_floats.wgsl.

alias Weights = Ints;

@group(0) @binding(4) var<storage, read> x: array<vec4<u32>>;

struct Part { a: vec4<u32>, b: vec4<u32>, d: f32, sum_a: f32, sum_b: f32 }

fn weights_at(row: u32, u: u32) -> Weights { return load_ints(row, u); }

fn part_at(row: u32, u: u32) -> Part {
    let i = (row * params.units + u) * 3u;
    let scales = bitcast<vec4<f32>>(x[i + 2u]);
    return Part(x[i], x[i + 1u], scales.x, scales.y, scales.z);
}

fn ints_dot(a: vec4<u32>, b: vec4<u32>) -> f32 {
    return f32(dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w));
}

fn part_dot(w: Weights, p: Part) -> f32 {
    var d = p.d * (w.da * ints_dot(w.a, p.a) + w.db * ints_dot(w.b, p.b));
    if (HAS_MIN) { d += w.ma * p.sum_a + w.mb * p.sum_b; }
    return d;
}

fn x_squares() -> f32 { return 0.0; }

fn x_scale(squares: f32) -> f32 { return 1.0; }
