// repack_iq1: IQ1_S and IQ1_M superblocks (gguf/quants/iq.py) for quant_iq1.wgsl. A point is eight weights, two bits each.

override MANY: u32;  // 1: IQ1_M, with a scale per 16 weights and a delta per eight

@group(0) @binding(3) var<storage, read_write> wa: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> wb: array<u32>;
@group(0) @binding(5) var<storage, read> points: array<u32>;  // two a word

// Of unit i: for each of four points, high bits and whether delta is below 0, a nibble each.
fn high_at(block: u32, i: u32) -> u32 {
    let w = half_at(block + 34u - 2u * MANY + (i << 1u));
    if (MANY == 1u) { return w; }
    let minus = (w >> 15u) * 0x8888u;
    return (w & 7u) | ((w << 1u) & 0x70u) | ((w << 2u) & 0x700u) | ((w << 3u) & 0x7000u) | minus;
}

// Both scales of unit i, four bits each.
fn scales_of(block: u32, i: u32) -> u32 {
    if (MANY == 1u) {
        let w = half_at(block + 48u + ((i >> 1u) << 1u)) >> (6u * (i & 1u));
        return (w & 7u) | ((w << 1u) & 0x70u);
    }
    return ((half_at(block + 34u + (i << 1u)) >> 12u) & 7u) * 0x11u;
}

// The scale of all, of IQ1_M a nibble in each of four words.
fn whole_at(block: u32) -> u32 {
    if (MANY == 0u) { return half_at(block); }
    return (half_at(block + 48u) >> 12u) | ((half_at(block + 50u) >> 8u) & 0xF0u)
        | ((half_at(block + 52u) >> 4u) & 0xF00u) | (half_at(block + 54u) & 0xF000u);
}

// The top bit of each of four nibbles.
fn top_bits(w: u32) -> u32 {
    return ((w >> 3u) & 1u) | ((w >> 6u) & 2u) | ((w >> 9u) & 4u) | ((w >> 12u) & 8u);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let t = group_index(group, groups) * WG + tid;
    if (t >= params.n_threads) { return; }
    let i = t & 7u;  // of the superblock's units
    let block = (t >> 3u) * (50u + 6u * MANY);
    let at = params.first_row * params.units + t;
    let low = word_at(block + 2u - 2u * MANY + (i << 2u));
    let high = high_at(block, i);
    var two: vec2<u32>;
    for (var g = 0u; g < 4u; g += 1u) {
        let point = extractBits(low, 8u * g, 8u) | (extractBits(high, 4u * g, 3u) << 8u);
        let pairs = spread_pairs((points[point >> 1u] >> ((point & 1u) << 4u)) & 0xFFFFu) << ((g & 1u) << 2u);
        if (g < 2u) { two.x |= pairs; } else { two.y |= pairs; }
    }
    wa[at] = two;
    if (i != 0u) { return; }
    var scales: vec2<u32>;
    var deltas = 0u;
    for (var k = 0u; k < 4u; k += 1u) {
        scales.x |= scales_of(block, k) << (8u * k);
        scales.y |= scales_of(block, k + 4u) << (8u * k);
        deltas |= (top_bits(high_at(block, k)) | (top_bits(high_at(block, k + 4u)) << 16u)) << (4u * k);
    }
    let to = (at >> 3u) << 2u;
    wb[to] = whole_at(block);
    wb[to + 1u] = scales.x;
    wb[to + 2u] = scales.y;
    wb[to + 3u] = ~deltas;
}
