// K-quants: how the five formats of 256 weights unpack. Shared by rows.h and tiles.h, so that they agree by construction.
//
// Weights come out in quarters of 64, as four vectors of 16 bytes in the file's order, each 0..63 (what is subtracted is left
// to the sums of x). Scales come out per 16 weights, or per 32 (Q4_K, Q5_K).
#pragma once
#include "formats.h"

INLINE uint32_t k_bytes(int type) {
    if (type == Q2_K || type == Q3_K) return type == Q2_K ? Q2_K_BYTES : Q3_K_BYTES;
    return type == Q4_K ? Q4_K_BYTES : type == Q5_K ? Q5_K_BYTES : Q6_K_BYTES;
}

INLINE int by_32(int type) { return type == Q4_K || type == Q5_K; }         // scales per 32 weights, not per 16
INLINE int has_min(int type) { return by_32(type) || type == Q2_K; }        // w = d*s*q - dmin*m, else w = d*s*(q - zero)

INLINE v128 field(v128 x, int shift, int mask) {
    return wasm_v128_and(shift ? wasm_u16x8_shr(x, (uint32_t)shift) : x, wasm_i8x16_splat((int8_t)mask));
}

// Bit `bit` of each byte, as the byte's bit `to`.
INLINE v128 one_bit(v128 x, int bit, int to) {
    v128 moved = bit > to ? wasm_u16x8_shr(x, (uint32_t)(bit - to)) : bit < to ? wasm_i16x8_shl(x, (uint32_t)(to - bit)) : x;
    return wasm_v128_and(moved, wasm_i8x16_splat((int8_t)(1 << to)));
}

// Weights 64 * j .. 64 * j + 63.
INLINE void unpack_quarter(int type, const uint8_t* p, int j, v128 q[4]) {
    int half = j / 2, shift = j % 2 * 4;
    if (type == Q4_K || type == Q5_K) {
        const uint8_t* low = p + (type == Q4_K ? 16 : 48) + 32 * j;
        v128 a = load(low), b = load(low + 16);
        q[0] = field(a, 0, 15), q[1] = field(b, 0, 15), q[2] = field(a, 4, 15), q[3] = field(b, 4, 15);
        if (type == Q5_K) {
            v128 c = load(p + 16), d = load(p + 32);
            q[0] = wasm_v128_or(q[0], one_bit(c, 2 * j, 4)), q[1] = wasm_v128_or(q[1], one_bit(d, 2 * j, 4));
            q[2] = wasm_v128_or(q[2], one_bit(c, 2 * j + 1, 4)), q[3] = wasm_v128_or(q[3], one_bit(d, 2 * j + 1, 4));
        }
    } else if (type == Q6_K) {
        const uint8_t *low = p + 64 * half, *high = p + 128 + 32 * half;
        v128 c = load(high), d = load(high + 16);
        q[0] = field(load(low), shift, 15), q[1] = field(load(low + 16), shift, 15);
        q[2] = field(load(low + 32), shift, 15), q[3] = field(load(low + 48), shift, 15);
        q[0] = wasm_v128_or(q[0], wasm_i16x8_shl(field(c, shift, 3), 4));
        q[1] = wasm_v128_or(q[1], wasm_i16x8_shl(field(d, shift, 3), 4));
        q[2] = wasm_v128_or(q[2], wasm_i16x8_shl(field(c, shift + 2, 3), 4));
        q[3] = wasm_v128_or(q[3], wasm_i16x8_shl(field(d, shift + 2, 3), 4));
    } else {
        const uint8_t* two = p + (type == Q2_K ? 16 : 32) + 32 * half;
        v128 a = load(two), b = load(two + 16);
        q[0] = field(a, shift, 3), q[1] = field(b, shift, 3), q[2] = field(a, shift + 2, 3), q[3] = field(b, shift + 2, 3);
        if (type == Q3_K) {
            v128 c = load(p), d = load(p + 16);
            q[0] = wasm_v128_or(q[0], one_bit(c, 2 * j, 2)), q[1] = wasm_v128_or(q[1], one_bit(d, 2 * j, 2));
            q[2] = wasm_v128_or(q[2], one_bit(c, 2 * j + 1, 2)), q[3] = wasm_v128_or(q[3], one_bit(d, 2 * j + 1, 2));
        }
    }
}

// Scales and minimums as i16, in s[0] and m[0] eight per 32 weights, or in s and m sixteen per 16. Where a format has no
// minimum but a zero point, m is scale * zero, to be taken off the integer sum.
INLINE void unpack_scales(int type, const uint8_t* p, v128 s[2], v128 m[2]) {
    if (by_32(type)) {
        k_scales(load(p), &s[0], &m[0]);
    } else if (type == Q2_K) {
        v128 x = load(p), low = field(x, 0, 15), high = field(x, 4, 15);
        s[0] = wasm_u16x8_extend_low_u8x16(low), s[1] = wasm_u16x8_extend_high_u8x16(low);
        m[0] = wasm_u16x8_extend_low_u8x16(high), m[1] = wasm_u16x8_extend_high_u8x16(high);
    } else {
        v128 x = type == Q3_K ? wasm_i8x16_sub(q3_scales(p + 96), wasm_i8x16_const_splat(32)) : load(p + 192);
        uint32_t zero_shift = type == Q3_K ? 2 : 5;
        s[0] = wasm_i16x8_extend_low_i8x16(x), s[1] = wasm_i16x8_extend_high_i8x16(x);
        m[0] = wasm_i16x8_shl(s[0], zero_shift), m[1] = wasm_i16x8_shl(s[1], zero_shift);
    }
}

// The f16 factor of a superblock's scales and, if it has minimums, in the upper half that of these.
INLINE uint32_t k_factors(int type, const uint8_t* p) {
    return has_min(type) ? load_u32(p + (type == Q2_K ? 80 : 0)) : load_u16(p + (type == Q3_K ? 108 : 208));
}
