// repack_iq2: IQ2_XXS, IQ2_XS and IQ2_S superblocks (gguf/quants/iq.py) for quant_iq2.wgsl. A point is eight weights, two bits each.

override SIZE: u32;  // 0: XXS, 1: XS, 2: S

@group(0) @binding(3) var<storage, read_write> wa: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> wb: array<u32>;
@group(0) @binding(5) var<storage, read> points: array<u32>;  // two a word

// Eight signs of the seven that are stored.
fn eight(seven: u32) -> u32 { return seven | ((countOneBits(seven) & 1u) << 7u); }

// Which point, and eight signs above its 16 bits, of weights 8g to 8g + 7 of unit i.
fn eight_at(block: u32, i: u32, g: u32) -> u32 {
    let at = block + 2u + (i << 3u);
    if (SIZE == 0u) {
        return byte_at(at + g) | (eight((word_at(at + 4u) >> (7u * g)) & 127u) << 16u);
    }
    if (SIZE == 1u) {
        let w = half_at(at + (g << 1u));
        return (w & 511u) | (eight(w >> 9u) << 16u);
    }
    let low = block + 2u + (i << 2u) + g;
    return byte_at(low) | (((byte_at(block + 66u + i) >> (g << 1u)) & 3u) << 8u) | (byte_at(low + 32u) << 16u);
}

// Both scales of units i to i + 3, four bits each.
fn scales_at(block: u32, i: u32) -> u32 {
    if (SIZE != 0u) { return word_at(block + 58u + 8u * SIZE + i); }
    var w = 0u;
    for (var k = 0u; k < 4u; k += 1u) {
        w |= ((word_at(block + 6u + ((i + k) << 3u)) >> 28u) * 0x11u) << (8u * k);
    }
    return w;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let t = group_index(group, groups) * WG + tid;
    if (t >= params.n_threads) { return; }
    let i = t & 7u;  // of the superblock's units
    let block = (t >> 3u) * (66u + 8u * SIZE);
    let at = params.first_row * params.units + t;
    var two: vec2<u32>;
    var signs = 0u;
    for (var g = 0u; g < 4u; g += 1u) {
        let found = eight_at(block, i, g);
        let point = found & 0xFFFFu;
        let pairs = spread_pairs((points[point >> 1u] >> ((point & 1u) << 4u)) & 0xFFFFu) << ((g & 1u) << 2u);
        if (g < 2u) { two.x |= pairs; } else { two.y |= pairs; }
        signs |= (found >> 16u) << (8u * g);
    }
    wa[at] = two;
    let to = (at >> 3u) * 11u;
    wb[to + 3u + i] = spread(signs);
    if ((i & 3u) == 0u) { wb[to + 1u + (i >> 2u)] = scales_at(block, i); }
    if (i == 0u) { wb[to] = half_at(block); }
}
