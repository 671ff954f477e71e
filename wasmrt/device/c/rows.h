// The row kernels: one row of a weight times one token's x. For decode, and for a few tokens.
//
// The sum goes block after block: sum += (d_w * d_x) * isum, then for formats with minimums sum -= (dmin_w * d_x) * msum. isum
// and msum are exact integers, so tiles.h gives the same bits. Blocks are read in the order of the file, one after another:
// several rows at once, each a short stream of its own, is a third as fast, since the processor's prefetcher does not follow.
// Four blocks at a time go from integers to floats, lane by lane.
#pragma once
#include "quantize.h"
#include "signed.h"

// scale number j of eight, in all lanes
#define LANE(s, j) wasm_i16x8_shuffle(s, s, j, j, j, j, j, j, j, j)

// isum, and msum for formats with minimums, of one superblock; lanes to be added up.
INLINE void k_dot(int type, const uint8_t* p, const Block256* x, v128* isum, v128* msum) {
    v128 s[2], m[2], q[4], sum = zero();
    // Forget what is known of x: kept for the next block, its vectors would be spilled. And p is one address, not one a load.
    __asm__("" : "+r"(x), "+r"(p));
    unpack_scales(type, p, s, m);
#define QUARTER(j)                                                                                                     \
    unpack_quarter(type, p, j, q);                                                                                     \
    if (by_32(type)) {                                                                                                 \
        v128 a = wasm_i16x8_add(dot_pairs(load(x->q + 64 * j), q[0]), dot_pairs(load(x->q + 64 * j + 16), q[1]));      \
        v128 b = wasm_i16x8_add(dot_pairs(load(x->q + 64 * j + 32), q[2]), dot_pairs(load(x->q + 64 * j + 48), q[3])); \
        ADD_DOT(sum, a, LANE(s[0], 2 * j));                                                                            \
        ADD_DOT(sum, b, LANE(s[0], 2 * j + 1));                                                                        \
    } else {                                                                                                           \
        ADD_DOT(sum, dot_pairs(load(x->q + 64 * j), q[0]), LANE(s[j / 2], j % 2 * 4));                                 \
        ADD_DOT(sum, dot_pairs(load(x->q + 64 * j + 16), q[1]), LANE(s[j / 2], j % 2 * 4 + 1));                        \
        ADD_DOT(sum, dot_pairs(load(x->q + 64 * j + 32), q[2]), LANE(s[j / 2], j % 2 * 4 + 2));                        \
        ADD_DOT(sum, dot_pairs(load(x->q + 64 * j + 48), q[3]), LANE(s[j / 2], j % 2 * 4 + 3));                        \
    }                                                                                                                  \
    SETTLE(sum);
    QUARTER(0) QUARTER(1) QUARTER(2) QUARTER(3)
#undef QUARTER
    v128 least = wasm_i32x4_dot_i16x8(m[0], load(by_32(type) ? x->sums_32 : x->sums_16));
    if (!by_32(type)) ADD_DOT(least, m[1], load(x->sums_16 + 8));
    *isum = has_min(type) ? sum : wasm_i32x4_sub(sum, least);
    *msum = least;
}

// Four blocks' products added to a sum, one after another: plus a[i], minus b[i]. Lanes from `count` on are left out.
INLINE float add_in_order(float sum, v128 a, v128 b, uint32_t count) {
    v128 used = wasm_i32x4_lt(wasm_i32x4_const(0, 1, 2, 3), wasm_i32x4_splat((int32_t)count));
    a = wasm_v128_and(a, used), b = wasm_v128_and(b, used);
    sum = sum + wasm_f32x4_extract_lane(a, 0) - wasm_f32x4_extract_lane(b, 0);
    sum = sum + wasm_f32x4_extract_lane(a, 1) - wasm_f32x4_extract_lane(b, 1);
    sum = sum + wasm_f32x4_extract_lane(a, 2) - wasm_f32x4_extract_lane(b, 2);
    return sum + wasm_f32x4_extract_lane(a, 3) - wasm_f32x4_extract_lane(b, 3);
}

// Four blocks, of which the first `count` are there; the last of these stands in for the rest.
#define BLOCK(i) ((i) < count ? (i) : count - 1)
#define FOUR(of) of(0), of(1), of(2), of(3)

INLINE float k_four(int type, float sum, const uint8_t* p, const Block256* x, uint32_t count) {
    v128 isum[4], msum[4], least = zero();
#pragma clang loop unroll(full)
    for (uint32_t i = 0; i < 4; i++) k_dot(type, p + BLOCK(i) * k_bytes(type), x + BLOCK(i), &isum[i], &msum[i]);
#define FACTORS(i) k_factors(type, p + BLOCK(i) * k_bytes(type))
#define DX(i) x[BLOCK(i)].d
    v128 factors = wasm_u32x4_make(FOUR(FACTORS)), dx = wasm_f32x4_make(FOUR(DX));
    v128 scale = wasm_f32x4_mul(f16_to_f32(wasm_v128_and(factors, wasm_i32x4_const_splat(0xffff))), dx);
    v128 total = wasm_f32x4_convert_i32x4(sum_each(isum[0], isum[1], isum[2], isum[3]));
    if (has_min(type)) {
        least = wasm_f32x4_convert_i32x4(sum_each(msum[0], msum[1], msum[2], msum[3]));
        least = wasm_f32x4_mul(wasm_f32x4_mul(f16_to_f32(wasm_u32x4_shr(factors, 16)), dx), least);
    }
    return add_in_order(sum, wasm_f32x4_mul(scale, total), least, count);
}

// isum of a superblock of IQ4_XS, which is signed_dot without a loop: 1.4 times as fast. Twice the work of Q4_K is left, since
// x has to be negated where a weight is negative, and an i16 holds no sum of two pairs.
INLINE v128 iq4_xs_dot(const uint8_t* p, const Block256* x) {
    v128 sum = zero(), table = wasm_i8x16_abs(NONLINEAR);
    __asm__("" : "+r"(x), "+r"(p));
    v128 s = iq4_xs_scales(load(p));
#define EIGHTH(g)                                                                                                       \
    do {                                                                                                                \
        v128 q = load(p + 8 + 16 * g), low = field(q, 0, 15), scale = LANE(s, g);                                       \
        v128 first = flip(load(x->q + 32 * g), wasm_i8x16_lt(low, wasm_i8x16_const_splat(8)));                          \
        v128 second = flip(load(x->q + 32 * g + 16), wasm_i8x16_gt(q, wasm_i8x16_const_splat(-1)));                     \
        ADD_DOT(sum, dot_pairs(first, look_up(table, low)), scale);                                                     \
        ADD_DOT(sum, dot_pairs(second, look_up(table, field(q, 4, 15))), scale);                                        \
        SETTLE(sum);                                                                                                    \
    } while (0);
    EIGHTH(0) EIGHTH(1) EIGHTH(2) EIGHTH(3) EIGHTH(4) EIGHTH(5) EIGHTH(6) EIGHTH(7)
#undef EIGHTH
    return sum;
}

// isum of a superblock of signed bytes; lanes to be added up.
INLINE v128 signed_dot(int type, const uint8_t* p, const Block256* x) {
    int16_t s[16];
    v128 m[2], minus[2], sum = zero();
    signed_scales(type, p, s);
#pragma clang loop unroll(disable)
    for (int g = 0; g < 8; g++) {
        unpack_signed(type, p, g, m, minus);
        v128 first = dot_pairs(flip(load(x->q + 32 * g), minus[0]), m[0]);
        v128 second = dot_pairs(flip(load(x->q + 32 * g + 16), minus[1]), m[1]);
        if (two_fit(type)) {
            ADD_DOT(sum, wasm_i16x8_add(first, second), signed_scale(type, s, g, 0));
        } else {
            ADD_DOT(sum, first, signed_scale(type, s, g, 0));
            ADD_DOT(sum, second, signed_scale(type, s, g, 1));
        }
    }
    return sum;
}

INLINE float signed_four(int type, float sum, const uint8_t* p, const Block256* x, uint32_t count) {
    v128 isum[4] = {zero(), zero(), zero(), zero()};
#pragma clang loop unroll(disable)
    for (uint32_t i = 0; i < count; i++)
        isum[i] = type == IQ4_XS ? iq4_xs_dot(p + i * IQ4_XS_BYTES, x + i)
                                 : signed_dot(type, p + i * signed_bytes(type), x + i);
#define D_SIGNED(i) signed_d(type, p + BLOCK(i) * signed_bytes(type))
    v128 d = wasm_f32x4_mul(f16_to_f32(wasm_u32x4_make(FOUR(D_SIGNED))), splat_f32(signed_factor(type)));
    v128 scale = wasm_f32x4_mul(d, wasm_f32x4_make(FOUR(DX)));
    v128 total = wasm_f32x4_convert_i32x4(sum_each(isum[0], isum[1], isum[2], isum[3]));
    return add_in_order(sum, wasm_f32x4_mul(scale, total), zero(), count);
}

// Formats of 32 weights, 0..31 as unpacked.

INLINE uint32_t bytes_32(int type) {
    if (type == MXFP4) return MXFP4_BYTES;
    return type == Q4_0 ? Q4_0_BYTES : type == Q4_1 ? Q4_1_BYTES : type == Q5_0 ? Q5_0_BYTES : Q5_1_BYTES;
}
INLINE int has_m(int type) { return type == Q4_1 || type == Q5_1; }

// Bits 8 * k .. of `bits` spread over bytes: byte i is 16 if bit i is set.
INLINE v128 fifth_bits(uint32_t bits) {
    v128 bytes = wasm_i8x16_shuffle(wasm_i32x4_splat((int32_t)bits), zero(), 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    v128 mask = wasm_u64x2_const_splat(0x8040201008040201ull);
    return wasm_v128_and(wasm_i8x16_eq(wasm_v128_and(bytes, mask), mask), wasm_i8x16_const_splat(16));
}

INLINE void unpack_32(int type, const uint8_t* p, v128 q[2]) {
    v128 x = load(p + bytes_32(type) - 16);
    q[0] = field(x, 0, 15), q[1] = field(x, 4, 15);
    if (type == MXFP4) {
        v128 table = wasm_i8x16_add(E2M1, wasm_i8x16_const_splat(12));
        q[0] = look_up(table, q[0]), q[1] = look_up(table, q[1]);
    }
    if (type == Q5_0 || type == Q5_1) {
        uint32_t bits = load_u32(p + bytes_32(type) - 20);
        q[0] = wasm_v128_or(q[0], fifth_bits(bits)), q[1] = wasm_v128_or(q[1], fifth_bits(bits >> 16));
    }
}

// The scales of four blocks, from their first words.
INLINE v128 scales_32(int type, v128 words) {
    if (type == MXFP4) return mxfp4_scales(wasm_v128_and(words, wasm_i32x4_const_splat(255)));
    return f16_to_f32(wasm_v128_and(words, wasm_i32x4_const_splat(0xffff)));
}

// What stands for zero, times sums of x.
INLINE v128 zero_times(int type, v128 xs) {
    if (type == MXFP4) return wasm_i32x4_add(wasm_i32x4_shl(xs, 3), wasm_i32x4_shl(xs, 2));
    return wasm_i32x4_shl(xs, type == Q4_0 ? 3 : 4);
}

// sum += (d_w * d_x) * isum, where a zero point times the sum of x has come off isum; with a minimum sum -= -m * (d_x * sum).
INLINE float four_32(int type, float sum, const uint8_t* p, const Block32* x, uint32_t count) {
    v128 isum[4], q[2], least = zero();
#pragma clang loop unroll(full)
    for (uint32_t i = 0; i < 4; i++) {
        const Block32* b = x + BLOCK(i);
        unpack_32(type, p + BLOCK(i) * bytes_32(type), q);
        isum[i] = wasm_i16x8_add(dot_pairs(load(b->q), q[0]), dot_pairs(load(b->q + 16), q[1]));
        isum[i] = wasm_i32x4_dot_i16x8(isum[i], wasm_i16x8_const_splat(1));
        SETTLE(isum[i]);
    }
#define FACTORS_32(i) load_u32(p + BLOCK(i) * bytes_32(type))
#define SUM(i) x[BLOCK(i)].sum
    v128 factors = wasm_u32x4_make(FOUR(FACTORS_32)), dx = wasm_f32x4_make(FOUR(DX)), xs = wasm_i32x4_make(FOUR(SUM));
    v128 scale = wasm_f32x4_mul(scales_32(type, factors), dx);
    v128 total = sum_each(isum[0], isum[1], isum[2], isum[3]);
    if (has_m(type)) {
        least = wasm_f32x4_mul(dx, wasm_f32x4_convert_i32x4(xs));
        least = wasm_f32x4_neg(wasm_f32x4_mul(f16_to_f32(wasm_u32x4_shr(factors, 16)), least));
    } else {
        total = wasm_i32x4_sub(total, zero_times(type, xs));
    }
    return add_in_order(sum, wasm_f32x4_mul(scale, wasm_f32x4_convert_i32x4(total)), least, count);
}

// Formats of 32 weights that are signed bytes, in two vectors.
INLINE uint32_t wide_bytes(int type) { return type == Q8_0 ? Q8_0_BYTES : IQ4_NL_BYTES; }

INLINE void unpack_wide(int type, const uint8_t* p, v128 q[2]) {
    if (type == Q8_0) {
        q[0] = load(p + 2), q[1] = load(p + 18);
    } else {
        v128 x = load(p + 2);
        q[0] = look_up(NONLINEAR, field(x, 0, 15)), q[1] = look_up(NONLINEAR, field(x, 4, 15));
    }
}

INLINE float four_wide(int type, float sum, const uint8_t* p, const Block32Wide* x, uint32_t count) {
    v128 isum[4];
#pragma clang loop unroll(full)
    for (uint32_t i = 0; i < 4; i++) {
        const Block32Wide* b = x + BLOCK(i);
        v128 q[2];
        unpack_wide(type, p + BLOCK(i) * wide_bytes(type), q);
        v128 low = wasm_i32x4_add(wasm_i32x4_dot_i16x8(load(b->q), wasm_i16x8_extend_low_i8x16(q[0])),
                                  wasm_i32x4_dot_i16x8(load(b->q + 8), wasm_i16x8_extend_high_i8x16(q[0])));
        v128 high = wasm_i32x4_add(wasm_i32x4_dot_i16x8(load(b->q + 16), wasm_i16x8_extend_low_i8x16(q[1])),
                                   wasm_i32x4_dot_i16x8(load(b->q + 24), wasm_i16x8_extend_high_i8x16(q[1])));
        isum[i] = wasm_i32x4_add(low, high);
        SETTLE(isum[i]);
    }
#define D_WIDE(i) load_u16(p + BLOCK(i) * wide_bytes(type))
    v128 scale = wasm_f32x4_mul(f16_to_f32(wasm_u32x4_make(FOUR(D_WIDE))), wasm_f32x4_make(FOUR(DX)));
    v128 total = wasm_f32x4_convert_i32x4(sum_each(isum[0], isum[1], isum[2], isum[3]));
    return add_in_order(sum, wasm_f32x4_mul(scale, total), zero(), count);
}

// A row: its blocks, four by four.
INLINE float row_of(int type, const uint8_t* p, const void* x, uint32_t n_blocks) {
    float sum = 0;
    uint32_t b = 0;
    if (is_signed(type)) {
        for (uint32_t n; b < n_blocks; b += n) {
            n = n_blocks - b < 4 ? n_blocks - b : 4;
            sum = signed_four(type, sum, p + (size_t)b * signed_bytes(type), (const Block256*)x + b, n);
        }
        return sum;
    }
#define BLOCKS(n)                                                                                                       \
    (type == Q8_0 || type == IQ4_NL ? four_wide(type, sum, p + (size_t)b * wide_bytes(type), (const Block32Wide*)x + b, n) \
     : type < Q2_K || type == MXFP4 ? four_32(type, sum, p + (size_t)b * bytes_32(type), (const Block32*)x + b, n)         \
                                    : k_four(type, sum, p + (size_t)b * k_bytes(type), (const Block256*)x + b, n))
    for (; b + 4 <= n_blocks; b += 4) sum = BLOCKS(4);
    if (b < n_blocks) sum = BLOCKS(n_blocks - b);
    return sum;
}
