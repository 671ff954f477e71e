// Q4_1: w = d * q + m. A vec4 of nibbles a unit; wb: (d, m) as f16, a word a unit.

const HAS_MIN: bool = true;

fn load_ints(row: u32, u: u32) -> Ints {
    let at = row * params.units + u;
    let w = wa[at];
    let s = unpack2x16float(wb[at]);
    return Ints(nibbles_a(w), nibbles_b(w), s.x, s.x, s.y, s.y);
}

fn load_unit(row: u32, u: u32) -> Unit {
    let q = load_ints(row, u);
    return Unit(floats(q.a, 0.0), floats(q.b, 0.0), q.da, q.db, q.ma, q.mb);
}
