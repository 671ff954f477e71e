// repack_iq3: IQ3_XXS and IQ3_S superblocks (gguf/quants/iq.py) for quant_iq3_xxs.wgsl and quant_iq3_s.wgsl. A point is four weights,
//   three bits each.

override LARGE: u32;  // 1: IQ3_S

@group(0) @binding(3) var<storage, read_write> wa: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> wb: array<u32>;
@group(0) @binding(5) var<storage, read> points: array<u32>;  // 12 bits each

fn point_byte(at: u32) -> u32 { return (points[at >> 2u] >> ((at & 3u) << 3u)) & 255u; }

// The weights of the k-th of some points, a byte each, below their signs. Of points the low bytes, the ninth bits and four signs, 1
// for minus.
fn nibbles_of(low: u32, ninth: u32, signs: u32, k: u32) -> u32 {
    let point = extractBits(low, 8u * k, 8u) | (extractBits(ninth, k, 1u) << 8u);
    let at = (3u * point) >> 1u;
    let w = (point_byte(at) | (point_byte(at + 1u) << 8u)) >> ((point & 1u) << 2u);
    let q = (w & 7u) | ((w & 0x38u) << 5u) | ((w & 0x1C0u) << 10u) | ((w & 0xE00u) << 15u);
    return q | (((extractBits(signs, 4u * k, 4u) * 0x00204081u) & 0x01010101u) << 3u);
}

fn seven_of(word: u32, g: u32) -> u32 {
    let seven = (word >> (7u * g)) & 127u;
    return (seven | ((countOneBits(seven) & 1u) << 7u)) << (8u * g);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let t = group_index(group, groups) * WG + tid;
    if (t >= params.n_threads) { return; }
    let i = t & 7u;  // of the superblock's units
    let block = (t >> 3u) * (98u + 12u * LARGE);
    let at = params.first_row * params.units + t;
    var ninth = 0u;
    var signs = word_at(block + 66u + 8u * LARGE + (i << 2u));
    if (LARGE == 1u) {
        ninth = byte_at(block + 66u + i);
    } else {
        signs = seven_of(signs, 0u) | seven_of(signs, 1u) | seven_of(signs, 2u) | seven_of(signs, 3u);
    }
    let low = word_at(block + 2u + (i << 3u));
    let high = word_at(block + 6u + (i << 3u));
    let more = ninth >> 4u;
    wa[at] = vec4<u32>(
        nibbles_of(low, ninth, signs, 0u) | (nibbles_of(high, more, signs >> 16u, 0u) << 4u),
        nibbles_of(low, ninth, signs, 1u) | (nibbles_of(high, more, signs >> 16u, 1u) << 4u),
        nibbles_of(low, ninth, signs, 2u) | (nibbles_of(high, more, signs >> 16u, 2u) << 4u),
        nibbles_of(low, ninth, signs, 3u) | (nibbles_of(high, more, signs >> 16u, 3u) << 4u));
    if (i != 0u) { return; }
    var scales = 0u;
    if (LARGE == 1u) {
        scales = word_at(block + 106u);
    } else {
        for (var k = 0u; k < 8u; k += 1u) { scales |= (word_at(block + 66u + (k << 2u)) >> 28u) << (4u * k); }
    }
    let to = (at >> 3u) << 1u;
    wb[to] = half_at(block);
    wb[to + 1u] = scales;
}
