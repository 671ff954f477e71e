// IQ3_XXS: w = d * (0.5 + scale) / 2 * v * sign, v = 8q + 4, but 62 of q = 7. Laid out as IQ3_S.

fn load_raw(row: u32, u: u32) -> Ints {
    let at = row * params.units + u;
    let w = wa[at];
    let s = (at >> 3u) << 1u;
    let d = unpack2x16float(wb[s]).x * 0.5 * (0.5 + f32(extractBits(wb[s + 1u], (u & 7u) << 2u, 4u)));
    return Ints(sizes(nibbles_a(w)), sizes(nibbles_b(w)), d, d, 0.0, 0.0);
}

fn sizes(w: vec4<u32>) -> vec4<u32> {
    let q = w & vec4<u32>(0x07070707u);
    let last = ones(q & (q >> vec4<u32>(1u)) & (q >> vec4<u32>(2u)));
    let v = (q << vec4<u32>(3u)) + vec4<u32>(0x04040404u) + (last << vec4<u32>(1u));
    return with_signs(v, ones(w >> vec4<u32>(3u)));
}
