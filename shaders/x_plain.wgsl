// x_plain: rows of x as a matmul reads them, of a width that is a multiple of 32.

@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;

fn x_unit(row: u32, u: u32) -> X32 {
    let i = (row * params.units + u) * 8u;
    return X32(mat4x4<f32>(x[i], x[i + 1u], x[i + 2u], x[i + 3u]), mat4x4<f32>(x[i + 4u], x[i + 5u], x[i + 6u], x[i + 7u]));
}

fn x_squares() -> f32 { return 0.0; }

fn x_scale(squares: f32) -> f32 { return 1.0; }
