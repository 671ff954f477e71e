// What the kernels repack_*.wgsl share. They lay out rows of a weight, raw as in the file, as device/gpu_layout.py says: rows
//   [first_row, first_row + n_rows) of streams that hold more. A thread for each unit of 32 weights, or each vec4 of a float format;
//   each word is written by one thread. raw begins with the first row and ends with a whole word; rows and blocks lie without gaps,
//   at even bytes unless a kernel says otherwise.

struct Params {
    units: u32,      // of a row
    n_threads: u32,  // units, or vec4s, of all rows
    first_row: u32,
    n: u32,          // weights of a row
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> raw: array<u32>;

override WG: u32 = 64u;

// The four bytes from an even one on.
fn word_at(at: u32) -> u32 {
    let odd = (at >> 1u) & 1u;
    let low = raw[at >> 2u];
    let high = raw[(at >> 2u) + odd];  // the same one where the bytes are aligned: nothing is read past the end
    return select(low, (low >> 16u) | (high << 16u), odd == 1u);
}

// The two bytes from an even one on.
fn half_at(at: u32) -> u32 {
    return (raw[at >> 2u] >> ((at & 2u) << 3u)) & 0xFFFFu;
}

fn byte_at(at: u32) -> u32 {
    return (raw[at >> 2u] >> ((at & 3u) << 3u)) & 255u;
}

// The four bytes from any one on.
fn any_word_at(at: u32) -> u32 {
    let shift = (at & 3u) << 3u;
    let apart = min(shift, 1u);
    let low = raw[at >> 2u];
    let high = raw[(at >> 2u) + apart];
    return select(low, (low >> shift) | (high << ((32u - shift) & 31u)), apart == 1u);
}

fn four_words_at(at: u32) -> vec4<u32> {
    return vec4<u32>(word_at(at), word_at(at + 4u), word_at(at + 8u), word_at(at + 12u));
}

// Of 32 bytes with the nibbles of two units of K formats, those of one, low or high, as quant.wgsl has them.
fn nibbles_at(at: u32, high: u32) -> vec4<u32> {
    let shift = vec4<u32>(high << 2u);
    let mask = vec4<u32>(0x0F0F0F0Fu);
    return ((four_words_at(at) >> shift) & mask) | (((four_words_at(at + 16u) >> shift) & mask) << vec4<u32>(4u));
}

// Of 32 bytes with two bits of four units of K formats, those of unit i, as quant.wgsl has them.
fn two_bits_at(at: u32, i: u32) -> vec2<u32> {
    let shift = vec4<u32>(i << 1u);
    let mask = vec4<u32>(0x03030303u);
    let to = vec4<u32>(0u, 2u, 4u, 6u);
    let a = ((four_words_at(at) >> shift) & mask) << to;
    let b = ((four_words_at(at + 16u) >> shift) & mask) << to;
    return vec2<u32>(a.x | a.y | a.z | a.w, b.x | b.y | b.z | b.w);
}

// Of 32 bytes with a bit of eight units of K formats, those of unit i, as quant.wgsl has them.
fn bits_at(at: u32, i: u32) -> u32 {
    let mask = vec4<u32>(0x01010101u);
    let a = ((four_words_at(at) >> vec4<u32>(i)) & mask) << vec4<u32>(0u, 1u, 2u, 3u);
    let b = ((four_words_at(at + 16u) >> vec4<u32>(i)) & mask) << vec4<u32>(4u, 5u, 6u, 7u);
    return a.x | a.y | a.z | a.w | b.x | b.y | b.z | b.w;
}

// Bit 4c + r to bit c of byte r, for c from 0 to 7: of each nibble the bits go to four bytes by a product without carries.
fn spread(bits: u32) -> u32 {
    var w = 0u;
    for (var c = 0u; c < 8u; c += 1u) {
        w |= ((((bits >> (4u * c)) & 15u) * 0x00204081u) & 0x01010101u) << c;
    }
    return w;
}

// Two bits of eight weights, 2k and 2k + 1 those of weight k: as quant.wgsl has two bits of weights 0 to 7.
fn spread_pairs(bits: u32) -> u32 {
    let a = bits & 0xFFu;
    let b = bits >> 8u;
    let low = a | (a << 6u) | (a << 12u) | (a << 18u);
    let high = b | (b << 6u) | (b << 12u) | (b << 18u);
    return (low & 0x03030303u) | ((high & 0x03030303u) << 2u);
}
