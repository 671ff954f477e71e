// x_norm: rows of x as a matmul reads them behind an RMS norm, of a width that is a multiple of 32.
//   sum(w * g * x) / sqrt(mean(x^2) + eps): both sums are made while x streams by, and the division comes last. This is exact.

@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> gain: array<vec4<f32>>;

var<private> squares_seen: f32 = 0.0;  // of the units that this thread has read

fn x_unit(row: u32, u: u32) -> X32 {
    let i = (row * params.units + u) * 8u;
    let j = u * 8u;
    let a = mat4x4<f32>(x[i], x[i + 1u], x[i + 2u], x[i + 3u]);
    let b = mat4x4<f32>(x[i + 4u], x[i + 5u], x[i + 6u], x[i + 7u]);
    squares_seen += dot_16(a, a) + dot_16(b, b);
    return X32(
        mat4x4<f32>(a[0] * gain[j], a[1] * gain[j + 1u], a[2] * gain[j + 2u], a[3] * gain[j + 3u]),
        mat4x4<f32>(b[0] * gain[j + 4u], b[1] * gain[j + 5u], b[2] * gain[j + 6u], b[3] * gain[j + 7u]),
    );
}

fn x_squares() -> f32 { return squares_seen; }

fn x_scale(squares: f32) -> f32 { return inverseSqrt(squares / f32(params.n) + params.eps); }
