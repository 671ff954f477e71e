// What formats share whose weights stand for values of a table. A file quant_NAME.wgsl behind this one and quant.wgsl gives
//     fn load_raw(row: u32, u: u32) -> Ints      unit u of a row, its integers as unsigned bytes, 128 added to each; no minima
//   Bytes are looked up by arithmetic on words of four: an array in memory would be read once for each weight.

const HAS_MIN: bool = false;

fn load_ints(row: u32, u: u32) -> Ints {
    let q = load_raw(row, u);
    let top = vec4<u32>(0x80808080u);
    return Ints(q.a ^ top, q.b ^ top, q.da, q.db, 0.0, 0.0);
}

fn load_unit(row: u32, u: u32) -> Unit {
    let q = load_raw(row, u);
    return Unit(floats(q.a, 128.0), floats(q.b, 128.0), q.da, q.db, 0.0, 0.0);
}

fn ones(w: vec4<u32>) -> vec4<u32> { return w & vec4<u32>(0x01010101u); }

// Bytes of 0 or 1 to bytes of 0 or 255.
fn masks(bits: vec4<u32>) -> vec4<u32> { return (bits << vec4<u32>(8u)) - bits; }

// 128 + v or, where minus has a 1, 128 - v. Bytes v below 64, so that none reaches its neighbour.
fn with_signs(v: vec4<u32>, minus: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(0x80808080u) + v - ((v & masks(minus)) << vec4<u32>(1u));
}

// a or, under the mask, b, of bytes that are the same in all four words; and of any.
fn either(a: u32, b: u32, mask: vec4<u32>) -> vec4<u32> {
    return (mask & vec4<u32>((a ^ b) * 0x01010101u)) ^ vec4<u32>(a * 0x01010101u);
}

fn choice(a: vec4<u32>, b: vec4<u32>, mask: vec4<u32>) -> vec4<u32> { return a ^ ((a ^ b) & mask); }

// 128 + NONLINEAR[q] (gguf/quants/iq.py) of bytes q below 16: eight pairs by the lowest bit, four by the next, and so on.
fn nonlinear(q: vec4<u32>) -> vec4<u32> {
    let m0 = masks(ones(q));
    let m1 = masks(ones(q >> vec4<u32>(1u)));
    let m2 = masks(ones(q >> vec4<u32>(2u)));
    let m3 = masks(ones(q >> vec4<u32>(3u)));
    let v0 = choice(either(1u, 24u, m0), either(45u, 63u, m0), m1);
    let v4 = choice(either(79u, 93u, m0), either(106u, 118u, m0), m1);
    let v8 = choice(either(129u, 141u, m0), either(153u, 166u, m0), m1);
    let v12 = choice(either(181u, 197u, m0), either(217u, 241u, m0), m1);
    return choice(choice(v0, v4, m2), choice(v8, v12, m2), m3);
}
