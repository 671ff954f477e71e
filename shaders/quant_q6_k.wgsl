// Q6_K: w = d * scale * (q - 32), a scale per 16 weights. A vec4 of low nibbles a unit; wb: 21 words a superblock of eight units,
//   d (f16), two scales (i8) a unit (4 words), the high two bits (two words a unit).

const HAS_MIN: bool = false;

// q, unsigned
fn load_raw(row: u32, u: u32) -> Ints {
    let at = row * params.units + u;
    let w = wa[at];
    let s = (at >> 3u) * 21u;
    let d = unpack2x16float(wb[s]).x;
    let scales = bitcast<i32>(wb[s + 1u + ((u & 7u) >> 1u)] >> ((u & 1u) << 4u));
    let high = s + 5u + ((u & 7u) << 1u);
    let four = vec4<u32>(4u);
    let a = nibbles_a(w) | (two_bits(wb[high]) << four);
    let b = nibbles_b(w) | (two_bits(wb[high + 1u]) << four);
    return Ints(a, b, d * f32(extractBits(scales, 0u, 8u)), d * f32(extractBits(scales, 8u, 8u)), 0.0, 0.0);
}

fn load_ints(row: u32, u: u32) -> Ints {
    let q = load_raw(row, u);
    return Ints(less(q.a, 32u), less(q.b, 32u), q.da, q.db, 0.0, 0.0);
}

fn load_unit(row: u32, u: u32) -> Unit {
    let q = load_raw(row, u);
    return Unit(floats(q.a, 32.0), floats(q.b, 32.0), q.da, q.db, 0.0, 0.0);
}
