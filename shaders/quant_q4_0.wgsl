// Q4_0: w = d * (q - 8). A vec4 of nibbles a unit; wb: of each row d (f16), two units a word.

const HAS_MIN: bool = false;

fn scale(row: u32, u: u32) -> f32 { return half_of(wb[row * ((params.units + 1u) >> 1u) + (u >> 1u)], u); }

fn load_ints(row: u32, u: u32) -> Ints {
    let w = wa[row * params.units + u];
    let d = scale(row, u);
    return Ints(less(nibbles_a(w), 8u), less(nibbles_b(w), 8u), d, d, 0.0, 0.0);
}

fn load_unit(row: u32, u: u32) -> Unit {
    let w = wa[row * params.units + u];
    let d = scale(row, u);
    return Unit(floats(nibbles_a(w), 8.0), floats(nibbles_b(w), 8.0), d, d, 0.0, 0.0);
}
