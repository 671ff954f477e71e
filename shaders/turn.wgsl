// turn: the cosine and sine by which a pair of a head's elements turns at a position, times params.magnitude.
//   turns: for each pair, the part of a revolution that it turns from one position to the next, in units of 2^-64 (low word,
//   high word): a product with a position is exact but for whole revolutions, which do not count. So an angle is as good at
//   position 100000 as at 1, which no f32 would be, and the series below make it the same on every driver.

override N_PAIRS: u32;
override HEAD_DIM: u32;
override HALVES: bool;  // pairs are (i, i + N_PAIRS), or (2i, 2i + 1)

// The upper word of a product.
fn upper(a: u32, b: u32) -> u32 {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let middle = a1 * b0 + ((a0 * b0) >> 16u);
    let other = a0 * b1 + (middle & 0xffffu);
    return a1 * b1 + (middle >> 16u) + (other >> 16u);
}

fn turn(pair: u32, position: u32) -> vec2<f32> {
    let step = turns[pair];
    let revolution = position * step.y + upper(position, step.x);  // in units of 2^-32
    let quarter = (revolution + 0x20000000u) >> 30u;
    let r = f32(bitcast<i32>(revolution - (quarter << 30u))) * 1.4629180792671596e-9;  // 2 pi / 2^32; |r| <= pi / 4
    let x = r * r;
    // Taylor series, 1 - x/(1*2) * (1 - x/(3*4) * ...) and r * (1 - x/(2*3) * (1 - x/(4*5) * ...)).
    var c = 1.0 - x * (1.0 / 90.0);
    c = 1.0 - x * (1.0 / 56.0) * c;
    c = 1.0 - x * (1.0 / 30.0) * c;
    c = 1.0 - x * (1.0 / 12.0) * c;
    c = 1.0 - x * 0.5 * c;
    var s = 1.0 - x * (1.0 / 72.0);
    s = 1.0 - x * (1.0 / 42.0) * s;
    s = 1.0 - x * (1.0 / 20.0) * s;
    s = r - r * x * (1.0 / 6.0) * s;
    let swapped = (quarter & 1u) == 1u;
    let cosine = select(c, s, swapped) * select(1.0, -1.0, ((quarter + 1u) & 2u) == 2u);
    let sine = select(s, c, swapped) * select(1.0, -1.0, (quarter & 2u) == 2u);
    return vec2<f32>(cosine, sine) * params.magnitude;
}

// The two elements of a pair, as they are numbered in their head.
fn pair_at(pair: u32) -> vec2<u32> {
    if (HALVES) { return vec2<u32>(pair, pair + N_PAIRS); }
    return vec2<u32>(2u * pair, 2u * pair + 1u);
}

fn turned(a: f32, b: f32, by: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(a * by.x - b * by.y, a * by.y + b * by.x);
}
