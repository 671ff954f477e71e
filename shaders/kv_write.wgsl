// kv_write: writing the cache. A thread makes one u32.
//   keys, values: [head][CAPACITY][dim padded to a multiple of 8, with zeros], f32 or, in a cache of F16, two f16 in a u32.
//   Positions that hold nothing yet must be numbers (they are zeros): attention reads whole tiles, and gives these a weight
//   of 0.

override F16: bool;
override CAPACITY: u32;
override KV_HEADS: u32;
override KEY_DIM: u32;
override VALUE_DIM: u32;

override KEY_WORDS: u32 = ((KEY_DIM + 7u) >> 3u) << select(3u, 2u, F16);  // of a position of a head
override VALUE_WORDS: u32 = ((VALUE_DIM + 7u) >> 3u) << select(3u, 2u, F16);

// The f16 nearest to x, ties to even, as its bits: what pack2x16float makes of a tie, or of what is too large, is the driver's
// choice.
fn half(x: f32) -> u32 {
    let all = bitcast<u32>(x);
    let bits = all & 0x7fffffffu;
    // Normal: a smaller exponent and a mantissa of 10 bits; past the largest this carries into infinity.
    var h = (bits + ((bits >> 13u) & 1u) + 0xfffu - (112u << 23u)) >> 13u;
    // Subnormal: 0.5 has the last bit that an f16 has, so adding it rounds.
    if (bits < 0x38800000u) { h = bitcast<u32>(bitcast<f32>(bits) + 0.5) - 0x3f000000u; }
    if (bits >= 0x47800000u) { h = select(0x7c00u, 0x7e00u, bits > 0x7f800000u); }
    return h | ((all >> 16u) & 0x8000u);
}

// Word i of those that token t stores: first its keys', then its values'. The op's file has key_element.
fn store(t: u32, i: u32) {
    if (i < KV_HEADS * KEY_WORDS) {
        let head = i / KEY_WORDS;
        let word = i - head * KEY_WORDS;
        let to = (head * CAPACITY + state.pos + t) * KEY_WORDS + word;
        if (F16) {
            keys[to] = half(key_element(t, head, 2u * word)) | (half(key_element(t, head, 2u * word + 1u)) << 16u);
        } else {
            keys[to] = bitcast<u32>(key_element(t, head, word));
        }
        return;
    }
    let j = i - KV_HEADS * KEY_WORDS;
    let head = j / VALUE_WORDS;
    if (head >= KV_HEADS) { return; }
    let word = j - head * VALUE_WORDS;
    let to = (head * CAPACITY + state.pos + t) * VALUE_WORDS + word;
    if (F16) {
        values[to] = half(value_element(t, head, 2u * word)) | (half(value_element(t, head, 2u * word + 1u)) << 16u);
    } else {
        values[to] = bitcast<u32>(value_element(t, head, word));
    }
}

fn value_element(t: u32, head: u32, e: u32) -> f32 {
    if (e >= VALUE_DIM) { return 0.0; }
    return v[(t * KV_HEADS + head) * VALUE_DIM + e];
}
