// Q5_K: w = d * scale * q - dmin * min. A vec4 of low nibbles a unit; wb: 13 words a superblock of eight units, (d, dmin) as f16,
//   bytes scale, min of each unit (4 words), the fifth bits of each unit (8 words).

const HAS_MIN: bool = true;

fn load_ints(row: u32, u: u32) -> Ints {
    let at = row * params.units + u;
    let w = wa[at];
    let s = (at >> 3u) * 13u;
    let d = unpack2x16float(wb[s]);
    let scales = wb[s + 1u + ((u & 7u) >> 1u)] >> ((u & 1u) << 4u);
    let fifth = wb[s + 5u + (u & 7u)];
    let scale = d.x * f32(scales & 255u);
    let minus = -(d.y * f32((scales >> 8u) & 255u));
    let four = vec4<u32>(4u);
    return Ints(nibbles_a(w) | (bits_a(fifth) << four), nibbles_b(w) | (bits_b(fifth) << four), scale, scale, minus, minus);
}

fn load_unit(row: u32, u: u32) -> Unit {
    let q = load_ints(row, u);
    return Unit(floats(q.a, 0.0), floats(q.b, 0.0), q.da, q.db, q.ma, q.mb);
}
