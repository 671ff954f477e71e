// TQ1_0 and TQ2_0: w = d * (q - 1). Half a vec4 of two-bit fields a unit; wb: d (f16) of each superblock of eight units.

fn load_raw(row: u32, u: u32) -> Ints {
    let at = row * params.units + u;
    let pair = wa[at >> 1u];
    let w = select(pair.xy, pair.zw, (u & 1u) == 1u);
    let d = unpack2x16float(wb[at >> 3u]).x;
    let minus = vec4<u32>(0x7F7F7F7Fu);
    return Ints(two_bits(w.x) + minus, two_bits(w.y) + minus, d, d, 0.0, 0.0);
}
