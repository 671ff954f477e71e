// Q5_0: w = d * (q - 16). A vec4 of low nibbles a unit; wb: three words for two units, of which a row's last may be alone:
//   d (f16) of both, the fifth bits of the one, those of the other.

const HAS_MIN: bool = false;

// q, unsigned
fn load_raw(row: u32, u: u32) -> Ints {
    let w = wa[row * params.units + u];
    let at = (row * ((params.units + 1u) >> 1u) + (u >> 1u)) * 3u;
    let d = half_of(wb[at], u);
    let fifth = wb[at + 1u + (u & 1u)];
    let four = vec4<u32>(4u);
    return Ints(nibbles_a(w) | (bits_a(fifth) << four), nibbles_b(w) | (bits_b(fifth) << four), d, d, 0.0, 0.0);
}

fn load_ints(row: u32, u: u32) -> Ints {
    let q = load_raw(row, u);
    return Ints(less(q.a, 16u), less(q.b, 16u), q.da, q.db, 0.0, 0.0);
}

fn load_unit(row: u32, u: u32) -> Unit {
    let q = load_raw(row, u);
    return Unit(floats(q.a, 16.0), floats(q.b, 16.0), q.da, q.db, 0.0, 0.0);
}
