// MXFP4: w = 2^(e - 128) * E2M1[q]. A vec4 of nibbles a unit; wb: of each row e (a byte), four units a word.

// 128 + E2M1[q], the doubled numbers of two bits of exponent and one of mantissa: below 4 they are q's low bits themselves.
fn e2m1(q: vec4<u32>) -> vec4<u32> {
    let k = q & vec4<u32>(0x07070707u);
    let low = k & vec4<u32>(0x03030303u);
    let both = ones(k & (k >> vec4<u32>(1u)));
    let v = k + ((low + (both << vec4<u32>(1u))) & masks(ones(k >> vec4<u32>(2u))));  // 4, 6, 8, 12 of 4 to 7
    return with_signs(v, ones(q >> vec4<u32>(3u)));
}

// Also where that power is no normal number, of which a GPU may make 0.
fn power(e: u32) -> f32 {
    return bitcast<f32>(select((e - 1u) << 23u, 0x200000u << e, e < 2u));
}

fn load_raw(row: u32, u: u32) -> Ints {
    let w = wa[row * params.units + u];
    let d = power(extractBits(wb[row * ((params.units + 3u) >> 2u) + (u >> 2u)], (u & 3u) << 3u, 8u));
    return Ints(e2m1(nibbles_a(w)), e2m1(nibbles_b(w)), d, d, 0.0, 0.0);
}
