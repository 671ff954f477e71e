// IQ3_S: w = d * (1 + 2 * scale) * (2q + 1) * sign. A vec4 of nibbles a unit, q (three bits) below the sign, 1 for minus; wb: two words
//   a superblock of eight units: d (f16); four bits of scale each.

fn load_raw(row: u32, u: u32) -> Ints {
    let at = row * params.units + u;
    let w = wa[at];
    let s = (at >> 3u) << 1u;
    let d = unpack2x16float(wb[s]).x * f32(1u + 2u * extractBits(wb[s + 1u], (u & 7u) << 2u, 4u));
    return Ints(odd(nibbles_a(w)), odd(nibbles_b(w)), d, d, 0.0, 0.0);
}

fn odd(w: vec4<u32>) -> vec4<u32> {
    let v = ((w & vec4<u32>(0x07070707u)) << vec4<u32>(1u)) + vec4<u32>(0x01010101u);
    return with_signs(v, ones(w >> vec4<u32>(3u)));
}
