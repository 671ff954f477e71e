// IQ4_XS: w = d * (scale - 32) * NONLINEAR[q]. A vec4 of nibbles a unit; wb: two words a superblock of eight units: d (f16) and two
//   high bits of each scale; four low bits of each.

fn load_raw(row: u32, u: u32) -> Ints {
    let at = row * params.units + u;
    let w = wa[at];
    let s = (at >> 3u) << 1u;
    let i = u & 7u;
    let head = wb[s];
    let scale = extractBits(wb[s + 1u], i << 2u, 4u) | (extractBits(head, 16u + (i << 1u), 2u) << 4u);
    let d = unpack2x16float(head).x * (f32(scale) - 32.0);
    return Ints(nonlinear(nibbles_a(w)), nonlinear(nibbles_b(w)), d, d, 0.0, 0.0);
}
