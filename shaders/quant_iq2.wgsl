// IQ2_XXS, IQ2_XS and IQ2_S: w = d * (0.5 + scale) / 4 * (8, 25 or 43) * sign, a scale per 16 weights. Half a vec4 of two-bit fields a
//   unit, 0 to 2; wb: eleven words a superblock of eight units: d (f16); two scales (four bits each) a unit (2 words); signs, 1 for
//   minus, a word a unit.

// 8, 25, 43 of 0, 1, 2
fn size(two: u32) -> vec4<u32> {
    let q = two_bits(two);
    return vec4<u32>(0x08080808u) + q * vec4<u32>(17u) + ones(q >> vec4<u32>(1u));
}

fn load_raw(row: u32, u: u32) -> Ints {
    let at = row * params.units + u;
    let pair = wa[at >> 1u];
    let w = select(pair.xy, pair.zw, (u & 1u) == 1u);
    let s = (at >> 3u) * 11u;
    let i = u & 7u;
    let d = unpack2x16float(wb[s]).x * 0.25;
    let scales = wb[s + 1u + (i >> 2u)] >> ((i & 3u) << 3u);
    let minus = wb[s + 3u + i];
    let da = d * (0.5 + f32(scales & 15u));
    let db = d * (0.5 + f32((scales >> 4u) & 15u));
    return Ints(with_signs(size(w.x), bits_a(minus)), with_signs(size(w.y), bits_b(minus)), da, db, 0.0, 0.0);
}
