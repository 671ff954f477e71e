// dot_floats: a unit of a weight's row times 32 elements of x, in f32. Around it: quant_*.wgsl, x_*.wgsl. Its twin: dot_ints.wgsl.

alias Weights = Unit;

struct Part { v: X32, sum_a: f32, sum_b: f32 }  // the sums, of 16 elements each, are what a format's minima are multiplied with

fn weights_at(row: u32, u: u32) -> Weights { return load_unit(row, u); }

fn part_at(row: u32, u: u32) -> Part {
    let v = x_unit(row, u);
    if (HAS_MIN) { return Part(v, sum_16(v.a), sum_16(v.b)); }
    return Part(v, 0.0, 0.0);
}

fn part_dot(w: Weights, p: Part) -> f32 {
    var d = w.da * dot_16(w.a, p.v.a) + w.db * dot_16(w.b, p.v.b);
    if (HAS_MIN) { d += w.ma * p.sum_a + w.mb * p.sum_b; }
    return d;
}
