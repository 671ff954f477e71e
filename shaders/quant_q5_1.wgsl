// Q5_1: w = d * q + m. A vec4 of low nibbles a unit; wb: two words a unit, (d, m) as f16 and the fifth bits.

const HAS_MIN: bool = true;

fn load_ints(row: u32, u: u32) -> Ints {
    let at = row * params.units + u;
    let w = wa[at];
    let s = unpack2x16float(wb[at << 1u]);
    let fifth = wb[(at << 1u) + 1u];
    let four = vec4<u32>(4u);
    return Ints(nibbles_a(w) | (bits_a(fifth) << four), nibbles_b(w) | (bits_b(fifth) << four), s.x, s.x, s.y, s.y);
}

fn load_unit(row: u32, u: u32) -> Unit {
    let q = load_ints(row, u);
    return Unit(floats(q.a, 0.0), floats(q.b, 0.0), q.da, q.db, q.ma, q.mb);
}
