// Q4_K: w = d * scale * q - dmin * min. A vec4 of nibbles a unit; wb: five words a superblock of eight units, (d, dmin) as f16 and
//   bytes scale, min of each unit.

const HAS_MIN: bool = true;

fn load_ints(row: u32, u: u32) -> Ints {
    let at = row * params.units + u;
    let w = wa[at];
    let s = (at >> 3u) * 5u;
    let d = unpack2x16float(wb[s]);
    let scales = wb[s + 1u + ((u & 7u) >> 1u)] >> ((u & 1u) << 4u);
    let scale = d.x * f32(scales & 255u);
    let minus = -(d.y * f32((scales >> 8u) & 255u));
    return Ints(nibbles_a(w), nibbles_b(w), scale, scale, minus, minus);
}

fn load_unit(row: u32, u: u32) -> Unit {
    let q = load_ints(row, u);
    return Unit(floats(q.a, 0.0), floats(q.b, 0.0), q.da, q.db, q.ma, q.mb);
}
