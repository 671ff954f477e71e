// x_any: rows of x as a matmul reads them, of any width: what is past the end counts as zero.

@group(0) @binding(4) var<storage, read> x: array<f32>;

fn x_at(row: u32, i: u32) -> f32 {
    if (i >= params.n) { return 0.0; }
    return x[row * params.n + i];
}

fn x_four(row: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(x_at(row, i), x_at(row, i + 1u), x_at(row, i + 2u), x_at(row, i + 3u));
}

fn x_unit(row: u32, u: u32) -> X32 {
    let i = u * 32u;
    return X32(
        mat4x4<f32>(x_four(row, i), x_four(row, i + 4u), x_four(row, i + 8u), x_four(row, i + 12u)),
        mat4x4<f32>(x_four(row, i + 16u), x_four(row, i + 20u), x_four(row, i + 24u), x_four(row, i + 28u)),
    );
}

fn x_squares() -> f32 { return 0.0; }

fn x_scale(squares: f32) -> f32 { return 1.0; }
