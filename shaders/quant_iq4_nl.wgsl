// IQ4_NL: w = d * NONLINEAR[q]. Laid out as Q4_0: a vec4 of nibbles a unit; wb: of each row d (f16), two units a word.

fn load_raw(row: u32, u: u32) -> Ints {
    let w = wa[row * params.units + u];
    let d = half_of(wb[row * ((params.units + 1u) >> 1u) + (u >> 1u)], u);
    return Ints(nonlinear(nibbles_a(w)), nonlinear(nibbles_b(w)), d, d, 0.0, 0.0);
}
