// The row kernels: one row of a weight times one token's x. For decode, and for a few tokens.
//
// The sum goes block after block: sum += (d_w * d_x) * isum, then for formats with minimums sum -= (dmin_w * d_x) * msum. isum
// and msum are exact integers, so tiles.h gives the same bits. Blocks are read in the order of the file, one after another:
// several rows at once, each a short stream of its own, is a third as fast, since the processor's prefetcher does not follow.
// Four blocks at a time go from integers to floats, lane by lane.
#pragma once
#include "k_quants.h"
#include "quantize.h"

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

// Formats of 32 weights, 0..31 as unpacked.

INLINE uint32_t bytes_32(int type) {
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
    if (type == Q5_0 || type == Q5_1) {
        uint32_t bits = load_u32(p + bytes_32(type) - 20);
        q[0] = wasm_v128_or(q[0], fifth_bits(bits)), q[1] = wasm_v128_or(q[1], fifth_bits(bits >> 16));
    }
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
    v128 scale = wasm_f32x4_mul(f16_to_f32(wasm_v128_and(factors, wasm_i32x4_const_splat(0xffff))), dx);
    v128 total = sum_each(isum[0], isum[1], isum[2], isum[3]);
    if (has_m(type)) {
        least = wasm_f32x4_mul(dx, wasm_f32x4_convert_i32x4(xs));
        least = wasm_f32x4_neg(wasm_f32x4_mul(f16_to_f32(wasm_u32x4_shr(factors, 16)), least));
    } else {
        total = wasm_i32x4_sub(total, wasm_i32x4_shl(xs, type == Q4_0 ? 3 : 4));
    }
    return add_in_order(sum, wasm_f32x4_mul(scale, wasm_f32x4_convert_i32x4(total)), least, count);
}

INLINE float four_q8_0(float sum, const uint8_t* p, const Block32Wide* x, uint32_t count) {
    v128 isum[4];
#pragma clang loop unroll(full)
    for (uint32_t i = 0; i < 4; i++) {
        const Block32Wide* b = x + BLOCK(i);
        const uint8_t* q = p + BLOCK(i) * Q8_0_BYTES + 2;
        v128 low = wasm_i32x4_add(wasm_i32x4_dot_i16x8(load(b->q), wasm_i16x8_load8x8(q)),
                                  wasm_i32x4_dot_i16x8(load(b->q + 8), wasm_i16x8_load8x8(q + 8)));
        v128 high = wasm_i32x4_add(wasm_i32x4_dot_i16x8(load(b->q + 16), wasm_i16x8_load8x8(q + 16)),
                                   wasm_i32x4_dot_i16x8(load(b->q + 24), wasm_i16x8_load8x8(q + 24)));
        isum[i] = wasm_i32x4_add(low, high);
        SETTLE(isum[i]);
    }
#define D_8_0(i) load_u16(p + BLOCK(i) * Q8_0_BYTES)
    v128 scale = wasm_f32x4_mul(f16_to_f32(wasm_u32x4_make(FOUR(D_8_0))), wasm_f32x4_make(FOUR(DX)));
    v128 total = wasm_f32x4_convert_i32x4(sum_each(isum[0], isum[1], isum[2], isum[3]));
    return add_in_order(sum, wasm_f32x4_mul(scale, total), zero(), count);
}

// A row: its blocks, four by four.
INLINE float row_of(int type, const uint8_t* p, const void* x, uint32_t n_blocks) {
    float sum = 0;
    uint32_t b = 0;
#define BLOCKS(n)                                                                                 \
    (type == Q8_0  ? four_q8_0(sum, p + (size_t)b * Q8_0_BYTES, (const Block32Wide*)x + b, n)     \
     : type < Q2_K ? four_32(type, sum, p + (size_t)b * bytes_32(type), (const Block32*)x + b, n) \
                   : k_four(type, sum, p + (size_t)b * k_bytes(type), (const Block256*)x + b, n))
    for (; b + 4 <= n_blocks; b += 4) sum = BLOCKS(4);
    if (b < n_blocks) sum = BLOCKS(n_blocks - b);
    return sum;
}
