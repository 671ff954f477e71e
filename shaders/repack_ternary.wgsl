// repack_ternary: TQ1_0 and TQ2_0 superblocks (gguf/quants/ternary.py) for quant_ternary.wgsl.

override PACKED: u32;  // 1: TQ1_0, five digits of base 3 a byte

@group(0) @binding(3) var<storage, read_write> wa: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> wb: array<u32>;

// Of each byte, times a power of 3 without what is above a byte, the digit on top: the upper part of three times that.
fn digits(w: vec4<u32>, power: vec4<u32>) -> vec4<u32> {
    let bytes = vec4<u32>(0x00FF00FFu);
    let low = (((w & bytes) * power) & bytes) * vec4<u32>(3u);
    let high = ((((w >> vec4<u32>(8u)) & bytes) * power) & bytes) * vec4<u32>(3u);
    return ((low >> vec4<u32>(8u)) & bytes) | (high & vec4<u32>(0xFF00FF00u));
}

fn power_of_3(n: u32) -> u32 {
    return select(select(1u, 3u, n == 1u), select(select(9u, 27u, n == 3u), 81u, n == 4u), n > 1u);
}

// Weights 16k to 16k + 15 of a superblock of TQ1_0, as quant.wgsl has two bits each.
fn packed_at(block: u32, k: u32) -> u32 {
    var d: vec4<u32>;
    if (k < 10u) {
        d = digits(four_words_at(block + ((k & 1u) << 4u)), vec4<u32>(power_of_3(k >> 1u)));
    } else if (k < 15u) {
        d = digits(four_words_at(block + 32u), vec4<u32>(power_of_3(k - 10u)));
    } else {
        d = digits(vec4<u32>(word_at(block + 48u)), vec4<u32>(1u, 3u, 9u, 27u));
    }
    return d.x | (d.y << 2u) | (d.z << 4u) | (d.w << 6u);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let t = group_index(group, groups) * WG + tid;
    if (t >= params.n_threads) { return; }
    let i = t & 7u;  // of the superblock's units
    let at = params.first_row * params.units + t;
    let block = (t >> 3u) * (66u - 12u * PACKED);
    if (PACKED == 1u) {
        wa[at] = vec2<u32>(packed_at(block, 2u * i), packed_at(block, 2u * i + 1u));
    } else {
        wa[at] = two_bits_at(block + ((i >> 2u) << 5u), i & 3u);
    }
    if (i == 0u) { wb[at >> 3u] = half_at(block + 64u - 12u * PACKED); }
}
