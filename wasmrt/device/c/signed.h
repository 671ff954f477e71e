// Formats of 256 weights that are signed bytes, times a small integer for each 16 or 32, times one number: IQ1 to IQ4 and the
// ternary ones. How they unpack; shared by rows.h, tiles.h and dequantize.c, so that they agree by construction.
//
// Weights come out in eighths of 32, as two vectors of 16 bytes: magnitudes 0..127, and masks that are ones for minus. Which
// eighth is known at run time only: with code for each, the modules would be twice as large.
// gguf/quants/iq.py and ternary.py tell what lies where; where those have halves or eighths, the factor has them here.
#pragma once
#include "k_quants.h"

// Points of eight and of four weights, a byte each; of IQ1 times eight. codebooks.c
extern const uint64_t IQ2_XXS_POINTS[256], IQ2_XS_POINTS[512], IQ2_S_POINTS[1024], IQ1_S_POINTS[2048];
extern const uint32_t IQ3_XXS_POINTS[256], IQ3_S_POINTS[512];

INLINE int is_signed(int type) { return type > Q6_K && type != IQ4_NL && type != MXFP4; }
INLINE int is_ternary(int type) { return type == TQ1_0 || type == TQ2_0; }

INLINE uint32_t signed_bytes(int type) {
    switch (type) {
        case IQ4_XS: return IQ4_XS_BYTES;
        case IQ3_S: return IQ3_S_BYTES;
        case IQ3_XXS: return IQ3_XXS_BYTES;
        case IQ2_S: return IQ2_S_BYTES;
        case IQ2_XS: return IQ2_XS_BYTES;
        case IQ2_XXS: return IQ2_XXS_BYTES;
        case IQ1_M: return IQ1_M_BYTES;
        case IQ1_S: return IQ1_S_BYTES;
        case TQ2_0: return TQ2_0_BYTES;
        default: return TQ1_0_BYTES;
    }
}

// The integers per 16 weights, sixteen, or (scales_by_32) per 32, eight.
INLINE int scales_by_32(int type) { return type != IQ2_S && type != IQ2_XS && type != IQ1_M; }

// 2 * n + 1
INLINE v128 odd(v128 n) { return wasm_v128_or(wasm_i16x8_shl(n, 1), wasm_i16x8_const_splat(1)); }

INLINE void signed_scales(int type, const uint8_t* p, int16_t to[16]) {
    v128 s[2];
    if (type == IQ4_XS) {
        s[0] = iq4_xs_scales(load(p));
    } else if (type == IQ2_XS || type == IQ2_S) {  // nibbles, low ones first
        v128 x = wasm_v128_load64_zero(p + (type == IQ2_S ? 74 : 66)), low = field(x, 0, 15), high = field(x, 4, 15);
        x = wasm_i8x16_shuffle(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        s[0] = odd(wasm_u16x8_extend_low_u8x16(x)), s[1] = odd(wasm_u16x8_extend_high_u8x16(x));
    } else if (type == IQ3_S) {
        v128 x = wasm_v128_load32_zero(p + 106), low = field(x, 0, 15), high = field(x, 4, 15);
        x = wasm_i8x16_shuffle(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 0, 16, 1, 17, 2, 18, 3, 19);
        s[0] = odd(wasm_u16x8_extend_low_u8x16(x));
    } else if (type == IQ3_XXS) {  // the top nibbles of eight words
        s[0] = odd(wasm_i16x8_narrow_i32x4(wasm_u32x4_shr(load(p + 66), 28), wasm_u32x4_shr(load(p + 82), 28)));
    } else if (type == IQ2_XXS) {  // of every second word
        v128 low = wasm_i32x4_shuffle(load(p + 2), load(p + 18), 1, 3, 5, 7);
        v128 high = wasm_i32x4_shuffle(load(p + 34), load(p + 50), 1, 3, 5, 7);
        s[0] = odd(wasm_i16x8_narrow_i32x4(wasm_u32x4_shr(low, 28), wasm_u32x4_shr(high, 28)));
    } else if (type == IQ1_S) {
        s[0] = odd(wasm_v128_and(wasm_u16x8_shr(load(p + 34), 12), wasm_i16x8_const_splat(7)));
    } else if (type == IQ1_M) {  // four fields of three bits in each of four words
        v128 x = wasm_v128_load64_zero(p + 48);
        v128 up = wasm_i16x8_const(1 << 13, 1 << 10, 1 << 7, 1 << 4, 1 << 13, 1 << 10, 1 << 7, 1 << 4);
        v128 low = wasm_i16x8_shuffle(x, x, 0, 0, 0, 0, 1, 1, 1, 1), high = wasm_i16x8_shuffle(x, x, 2, 2, 2, 2, 3, 3, 3, 3);
        s[0] = odd(wasm_u16x8_shr(wasm_i16x8_mul(low, up), 13)), s[1] = odd(wasm_u16x8_shr(wasm_i16x8_mul(high, up), 13));
    } else {
        s[0] = wasm_i16x8_const_splat(1);
    }
    store(to, s[0]);
    if (!scales_by_32(type)) store(to + 8, s[1]);
}

// The scale of the first or the second half (i) of eighth g, in all lanes.
INLINE v128 signed_scale(int type, const int16_t s[16], int g, int i) {
    return wasm_v128_load16_splat(s + (scales_by_32(type) ? g : 2 * g + i));
}

// Whether an i16 holds the products of x and four weights of one scale: magnitudes are at most 43, 62, 15, 9 or 2, not 127.
INLINE int two_fit(int type) { return scales_by_32(type) && type != IQ4_XS; }

// The f16 number of a superblock, and what it is times.
INLINE uint32_t signed_d(int type, const uint8_t* p) {
    if (type == IQ1_M) return p[49] >> 4 | (p[51] & 0xf0) | (p[53] & 0xf0) << 4 | (p[55] & 0xf0) << 8;
    return load_u16(p + (type == TQ2_0 ? 64 : type == TQ1_0 ? 52 : 0));
}
INLINE float signed_factor(int type) {
    if (type == IQ3_XXS) return 0.25f;
    return is_ternary(type) || type == IQ4_XS || type == IQ3_S ? 1 : 0.125f;
}

// The bits of bytes a and b of x, as 16 bytes: all ones where a bit is set.
#define SIGN_BITS(x, a, b) are_set(wasm_i8x16_shuffle(x, x, a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b))
INLINE v128 are_set(v128 bytes) {
    v128 bits = wasm_u64x2_const_splat(0x8040201008040201ull);
    return wasm_i8x16_eq(wasm_v128_and(bytes, bits), bits);
}

// Bytes of seven bits each get an eighth that makes the number of ones even.
INLINE uint64_t even(uint64_t x) {
    uint64_t odd = x ^ x >> 4;
    odd ^= odd >> 2;
    odd ^= odd >> 1;
    return x | (odd & 0x0101010101010101ull) << 7;
}

// Four fields of seven bits of a word as four bytes, with their eighth bits.
INLINE v128 sevens(uint32_t x) {
    uint32_t spread = (x & 0x7f) | (x << 1 & 0x7f00) | (x << 2 & 0x7f0000) | (x << 3 & 0x7f000000);
    return wasm_i32x4_splat((int32_t)even(spread));
}

INLINE v128 two(const uint64_t* points, uint32_t a, uint32_t b) {
    return wasm_v128_load64_lane(points + b, wasm_v128_load64_zero(points + a), 1);
}

INLINE v128 four(const uint32_t* points, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    v128 x = wasm_v128_load32_lane(points + b, wasm_v128_load32_zero(points + a), 1);
    return wasm_v128_load32_lane(points + d, wasm_v128_load32_lane(points + c, x, 2), 3);
}

// Signed bytes to magnitudes and masks.
INLINE void split_signs(v128 x, v128* m, v128* minus) {
    *m = wasm_i8x16_abs(x);
    *minus = wasm_i8x16_shr(x, 7);
}

INLINE v128 flip(v128 x, v128 minus) { return wasm_i8x16_sub(wasm_v128_xor(x, minus), minus); }

// x * 3^k for 16 bytes, modulo 256, and from there the first digit, less 1: bytes are fractions of 256 in base 3, so that
// digits are the integer parts of three times what is left.
INLINE v128 digit_less_1(v128 x, v128 power) {
    v128 even = wasm_v128_and(wasm_i16x8_mul(x, power), wasm_i16x8_const_splat(255));
    x = wasm_v128_or(even, wasm_i16x8_shl(wasm_i16x8_mul(wasm_u16x8_shr(x, 8), power), 8));
    v128 not_0 = wasm_u8x16_ge(x, wasm_u8x16_const_splat(86)), is_2 = wasm_u8x16_ge(x, wasm_u8x16_const_splat(171));
    return wasm_i8x16_sub(wasm_i8x16_sub(wasm_i8x16_const_splat(-1), not_0), is_2);
}

// Weights 32 * g .. of TQ1_0, as signed bytes. 32 bytes have the first digits of 32 weights, then the second ones, and so on;
// then 16 bytes five digits each, and 4 bytes four.
INLINE void unpack_tq1_0(const uint8_t* p, int g, v128 q[2]) {
    static const int16_t POWERS[5] = {1, 3, 9, 27, 81};
    if (g < 5) {
        v128 power = wasm_v128_load16_splat(POWERS + g);
        q[0] = digit_less_1(load(p), power), q[1] = digit_less_1(load(p + 16), power);
        return;
    }
    q[0] = digit_less_1(load(p + 32), wasm_v128_load16_splat(POWERS + 2 * (g - 5)));
    if (g < 7) {
        q[1] = digit_less_1(load(p + 32), wasm_v128_load16_splat(POWERS + 2 * (g - 5) + 1));
    } else {
        q[1] = digit_less_1(wasm_v128_load32_splat(p + 48), wasm_i16x8_const(1, 1, 3, 3, 9, 9, 27, 27));
    }
}

// Weights 32 * g .. 32 * g + 31.
INLINE void unpack_signed(int type, const uint8_t* p, int g, v128 m[2], v128 minus[2]) {
    if (type == TQ1_0 || type == TQ2_0) {
        v128 q[2], one = wasm_i8x16_const_splat(1), three = wasm_i8x16_const_splat(3);
        if (type == TQ1_0) {
            unpack_tq1_0(p, g, q);
        } else {
            const uint8_t* two_bits = p + 32 * (g / 4);
            uint32_t shift = (uint32_t)g % 4 * 2;
            q[0] = wasm_i8x16_sub(wasm_v128_and(wasm_u16x8_shr(load(two_bits), shift), three), one);
            q[1] = wasm_i8x16_sub(wasm_v128_and(wasm_u16x8_shr(load(two_bits + 16), shift), three), one);
        }
        split_signs(q[0], &m[0], &minus[0]), split_signs(q[1], &m[1], &minus[1]);
    } else if (type == IQ4_XS) {
        v128 x = load(p + 8 + 16 * g), low = field(x, 0, 15), table = wasm_i8x16_abs(NONLINEAR);
        m[0] = look_up(table, low), m[1] = look_up(table, field(x, 4, 15));
        minus[0] = wasm_i8x16_lt(low, wasm_i8x16_const_splat(8)), minus[1] = wasm_i8x16_gt(x, wasm_i8x16_const_splat(-1));
    } else if (type == IQ2_XXS) {
        const uint8_t* q = p + 2 + 8 * g;
        v128 bits = sevens(load_u32(q + 4));
        m[0] = two(IQ2_XXS_POINTS, q[0], q[1]), m[1] = two(IQ2_XXS_POINTS, q[2], q[3]);
        minus[0] = SIGN_BITS(bits, 0, 1), minus[1] = SIGN_BITS(bits, 2, 3);
    } else if (type == IQ2_XS) {
        uint64_t q;
        __builtin_memcpy(&q, p + 2 + 8 * g, 8);
        v128 bits = wasm_i64x2_splat((int64_t)even(q >> 9 & 0x007f007f007f007full));
        m[0] = two(IQ2_XS_POINTS, q & 511, q >> 16 & 511), m[1] = two(IQ2_XS_POINTS, q >> 32 & 511, q >> 48 & 511);
        minus[0] = SIGN_BITS(bits, 0, 2), minus[1] = SIGN_BITS(bits, 4, 6);
    } else if (type == IQ2_S) {
        const uint8_t* q = p + 2 + 4 * g;
        uint32_t high = p[66 + g];
        v128 bits = wasm_v128_load32_splat(p + 34 + 4 * g);
        m[0] = two(IQ2_S_POINTS, q[0] | (high << 8 & 0x300), q[1] | (high << 6 & 0x300));
        m[1] = two(IQ2_S_POINTS, q[2] | (high << 4 & 0x300), q[3] | (high << 2 & 0x300));
        minus[0] = SIGN_BITS(bits, 0, 1), minus[1] = SIGN_BITS(bits, 2, 3);
    } else if (type == IQ3_XXS) {
        const uint8_t* q = p + 2 + 8 * g;
        v128 bits = sevens(load_u32(p + 66 + 4 * g));
        m[0] = four(IQ3_XXS_POINTS, q[0], q[1], q[2], q[3]), m[1] = four(IQ3_XXS_POINTS, q[4], q[5], q[6], q[7]);
        minus[0] = SIGN_BITS(bits, 0, 1), minus[1] = SIGN_BITS(bits, 2, 3);
    } else if (type == IQ3_S) {
        const uint8_t* q = p + 2 + 8 * g;
        uint32_t high = p[66 + g];
        v128 bits = wasm_v128_load32_splat(p + 74 + 4 * g);
#define INDEX(k) (q[k] | (high << (8 - k) & 256))
        m[0] = four(IQ3_S_POINTS, INDEX(0), INDEX(1), INDEX(2), INDEX(3));
        m[1] = four(IQ3_S_POINTS, INDEX(4), INDEX(5), INDEX(6), INDEX(7));
#undef INDEX
        minus[0] = SIGN_BITS(bits, 0, 1), minus[1] = SIGN_BITS(bits, 2, 3);
    } else if (type == IQ1_S) {
        const uint8_t* q = p + 2 + 4 * g;
        uint32_t high = load_u16(p + 34 + 2 * g);
        v128 delta = wasm_i8x16_splat(high >> 15 ? -1 : 1);
        v128 a = two(IQ1_S_POINTS, q[0] | (high << 8 & 0x700), q[1] | (high << 5 & 0x700));
        v128 b = two(IQ1_S_POINTS, q[2] | (high << 2 & 0x700), q[3] | (high >> 1 & 0x700));
        split_signs(wasm_i8x16_add(a, delta), &m[0], &minus[0]), split_signs(wasm_i8x16_add(b, delta), &m[1], &minus[1]);
    } else {  // IQ1_M: a nibble has three bits of an index, and delta's sign
        const uint8_t* q = p + 4 * g;
        uint32_t high = load_u16(p + 32 + 2 * g);
        static const uint64_t DELTAS[2] = {0x0101010101010101ull, 0xffffffffffffffffull};
        v128 a = two(IQ1_S_POINTS, q[0] | (high << 8 & 0x700), q[1] | (high << 4 & 0x700));
        v128 b = two(IQ1_S_POINTS, q[2] | (high & 0x700), q[3] | (high >> 4 & 0x700));
        a = wasm_i8x16_add(a, two(DELTAS, high >> 3 & 1, high >> 7 & 1));
        b = wasm_i8x16_add(b, two(DELTAS, high >> 11 & 1, high >> 15));
        split_signs(a, &m[0], &minus[0]), split_signs(b, &m[1], &minus[1]);
    }
}
