// Q3_K: w = d * scale * (q - 4), a scale per 16 weights. Half a vec4 of the low two bits a unit; wb: of each row 12 words a
//   superblock of eight units, with two scales (i8, 32 subtracted) a unit (4 words) and the third bits of each unit (8 words); then
//   d (f16), two superblocks a word.

const HAS_MIN: bool = false;

// q, unsigned
fn load_raw(row: u32, u: u32) -> Ints {
    let pair = wa[(row * params.units + u) >> 1u];
    let w = select(pair.xy, pair.zw, (u & 1u) == 1u);
    let blocks = params.units >> 3u;
    let first = row * (12u * blocks + ((blocks + 1u) >> 1u));
    let d = half_of(wb[first + 12u * blocks + (u >> 4u)], u >> 3u);
    let s = first + (u >> 3u) * 12u;
    let scales = bitcast<i32>(wb[s + ((u & 7u) >> 1u)] >> ((u & 1u) << 4u));
    let third = wb[s + 4u + (u & 7u)];
    let two = vec4<u32>(2u);
    let a = two_bits(w.x) | (bits_a(third) << two);
    let b = two_bits(w.y) | (bits_b(third) << two);
    return Ints(a, b, d * f32(extractBits(scales, 0u, 8u)), d * f32(extractBits(scales, 8u, 8u)), 0.0, 0.0);
}

fn load_ints(row: u32, u: u32) -> Ints {
    let q = load_raw(row, u);
    return Ints(less(q.a, 4u), less(q.b, 4u), q.da, q.db, 0.0, 0.0);
}

fn load_unit(row: u32, u: u32) -> Unit {
    let q = load_raw(row, u);
    return Unit(floats(q.a, 4.0), floats(q.b, 4.0), q.da, q.db, 0.0, 0.0);
}
