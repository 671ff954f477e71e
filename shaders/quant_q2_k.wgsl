// Q2_K: w = d * scale * q - dmin * min, per 16 weights. Half a vec4 of two-bit fields a unit; wb: five words a superblock of eight
//   units, (d, dmin) as f16 and two bytes a unit with a scale low and a min high.

const HAS_MIN: bool = true;

fn load_ints(row: u32, u: u32) -> Ints {
    let at = row * params.units + u;
    let pair = wa[at >> 1u];
    let w = select(pair.xy, pair.zw, (u & 1u) == 1u);
    let s = (at >> 3u) * 5u;
    let d = unpack2x16float(wb[s]);
    let scales = wb[s + 1u + ((u & 7u) >> 1u)] >> ((u & 1u) << 4u);
    return Ints(
        two_bits(w.x), two_bits(w.y),
        d.x * f32(scales & 15u), d.x * f32((scales >> 8u) & 15u),
        -(d.y * f32((scales >> 4u) & 15u)), -(d.y * f32((scales >> 12u) & 15u)));
}

fn load_unit(row: u32, u: u32) -> Unit {
    let q = load_ints(row, u);
    return Unit(floats(q.a, 0.0), floats(q.b, 0.0), q.da, q.db, q.ma, q.mb);
}
