// IQ1_S and IQ1_M: w = d * (2 * scale + 1) * (q - 1 + delta), a scale per 16 weights, delta 1/8 or -1/8 per eight. Half a vec4 of
//   two-bit fields a unit; wb: four words a superblock of eight units: d (f16); two scales (three bits in four each) a unit (2
//   words); a bit for each delta, 1 of those above 0. In eighths weights are whole: -9, -7, -1, 1, 7, 9.

// 128 + eighths
fn eighths(two: u32, deltas: u32) -> vec4<u32> {
    let up = vec4<u32>((deltas & 1u) * 0x02020202u, (deltas & 1u) * 0x02020202u, (deltas & 2u) * 0x01010101u, (deltas & 2u) * 0x01010101u);
    return (two_bits(two) << vec4<u32>(3u)) + up + vec4<u32>(0x77777777u);
}

fn load_raw(row: u32, u: u32) -> Ints {
    let at = row * params.units + u;
    let pair = wa[at >> 1u];
    let w = select(pair.xy, pair.zw, (u & 1u) == 1u);
    let s = (at >> 3u) << 2u;
    let i = u & 7u;
    let d = unpack2x16float(wb[s]).x * 0.125;
    let scales = wb[s + 1u + (i >> 2u)] >> ((i & 3u) << 3u);
    let deltas = wb[s + 3u] >> (i << 2u);
    let da = d * f32(2u * (scales & 15u) + 1u);
    let db = d * f32(2u * ((scales >> 4u) & 15u) + 1u);
    return Ints(eighths(w.x, deltas), eighths(w.y, deltas >> 2u), da, db, 0.0, 0.0);
}
