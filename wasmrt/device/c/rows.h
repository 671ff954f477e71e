// The row kernels: four rows of a weight times one token's x. For decode, and for a few tokens.
//
// out[r] is summed block after block: out += (d_w * d_x) * isum, then for formats with minimums out -= (dmin_w * d_x) * msum.
// isum and msum are exact integers, so tiles.h gives the same bits.
#pragma once
#include "k_quants.h"
#include "quantize.h"

// scale number j of eight, in all lanes
#define LANE(s, j) wasm_i16x8_shuffle(s, s, j, j, j, j, j, j, j, j)

// isum, and msum for formats with minimums, of one superblock; lanes to be added up.
INLINE void k_dot(int type, const uint8_t* p, const Block256* x, v128* isum, v128* msum) {
    v128 s[2], m[2], q[4], sum = zero();
    unpack_scales(type, p, s, m);
#define QUARTER(j)                                                                                                             \
    unpack_quarter(type, p, j, q);                                                                                             \
    if (by_32(type)) {                                                                                                         \
        v128 a = wasm_i16x8_add(dot_pairs(load(x->q + 64 * j), q[0]), dot_pairs(load(x->q + 64 * j + 16), q[1]));              \
        v128 b = wasm_i16x8_add(dot_pairs(load(x->q + 64 * j + 32), q[2]), dot_pairs(load(x->q + 64 * j + 48), q[3]));         \
        sum = wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(a, LANE(s[0], 2 * j)));                                                 \
        sum = wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(b, LANE(s[0], 2 * j + 1)));                                             \
    } else {                                                                                                                   \
        sum = wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(dot_pairs(load(x->q + 64 * j), q[0]), LANE(s[j / 2], j % 2 * 4)));      \
        sum = wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(dot_pairs(load(x->q + 64 * j + 16), q[1]), LANE(s[j / 2], j % 2 * 4 + 1))); \
        sum = wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(dot_pairs(load(x->q + 64 * j + 32), q[2]), LANE(s[j / 2], j % 2 * 4 + 2))); \
        sum = wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(dot_pairs(load(x->q + 64 * j + 48), q[3]), LANE(s[j / 2], j % 2 * 4 + 3))); \
    }
    QUARTER(0) QUARTER(1) QUARTER(2) QUARTER(3)
#undef QUARTER
    v128 least = by_32(type) ? wasm_i32x4_dot_i16x8(m[0], load(x->sums_32))
                             : wasm_i32x4_add(wasm_i32x4_dot_i16x8(m[0], load(x->sums_16)), wasm_i32x4_dot_i16x8(m[1], load(x->sums_16 + 8)));
    *isum = has_min(type) ? sum : wasm_i32x4_sub(sum, least);
    *msum = least;
}

INLINE v128 k_rows(int type, const uint8_t* const rows[4], const Block256* x, uint32_t n_blocks) {
    v128 out = zero();
    for (uint32_t b = 0; b < n_blocks; b++, x++) {
        v128 isum[4], msum[4];
        const uint8_t* p[4];
        for (int r = 0; r < 4; r++) {
            p[r] = rows[r] + (size_t)b * k_bytes(type);
            k_dot(type, p[r], x, &isum[r], &msum[r]);
        }
        v128 dx = splat_f32(x->d);
        v128 d = f16_to_f32(wasm_u32x4_make(k_d(type, p[0]), k_d(type, p[1]), k_d(type, p[2]), k_d(type, p[3])));
        v128 sums = wasm_f32x4_convert_i32x4(sum_each(isum[0], isum[1], isum[2], isum[3]));
        out = wasm_f32x4_add(out, wasm_f32x4_mul(wasm_f32x4_mul(d, dx), sums));
        if (has_min(type)) {
            d = f16_to_f32(wasm_u32x4_make(k_dmin(type, p[0]), k_dmin(type, p[1]), k_dmin(type, p[2]), k_dmin(type, p[3])));
            sums = wasm_f32x4_convert_i32x4(sum_each(msum[0], msum[1], msum[2], msum[3]));
            out = wasm_f32x4_sub(out, wasm_f32x4_mul(wasm_f32x4_mul(d, dx), sums));
        }
    }
    return out;
}

// Formats of 32 weights, 0..31 as unpacked.

INLINE uint32_t bytes_32(int type) { return type == Q4_0 ? Q4_0_BYTES : type == Q4_1 ? Q4_1_BYTES : type == Q5_0 ? Q5_0_BYTES : Q5_1_BYTES; }
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

// out += (d_w * d_x) * isum; with a zero point that times the sum of x is in isum, with a minimum out += m * (d_x * sum).
INLINE v128 rows_32(int type, const uint8_t* const rows[4], const Block32* x, uint32_t n_blocks) {
    v128 out = zero(), ones = wasm_i16x8_const_splat(1);
    for (uint32_t b = 0; b < n_blocks; b++, x++) {
        v128 isum[4], q[2];
        const uint8_t* p[4];
        for (int r = 0; r < 4; r++) {
            p[r] = rows[r] + (size_t)b * bytes_32(type);
            unpack_32(type, p[r], q);
            isum[r] = wasm_i32x4_dot_i16x8(wasm_i16x8_add(dot_pairs(load(x->q), q[0]), dot_pairs(load(x->q + 16), q[1])), ones);
        }
        v128 dx = splat_f32(x->d), sum = wasm_i32x4_splat(x->sum);
        v128 d = f16_to_f32(wasm_u32x4_make(load_u16(p[0]), load_u16(p[1]), load_u16(p[2]), load_u16(p[3])));
        v128 total = sum_each(isum[0], isum[1], isum[2], isum[3]);
        if (!has_m(type)) total = wasm_i32x4_sub(total, wasm_i32x4_shl(sum, type == Q4_0 ? 3 : 4));
        out = wasm_f32x4_add(out, wasm_f32x4_mul(wasm_f32x4_mul(d, dx), wasm_f32x4_convert_i32x4(total)));
        if (has_m(type)) {
            v128 m = f16_to_f32(wasm_u32x4_make(load_u16(p[0] + 2), load_u16(p[1] + 2), load_u16(p[2] + 2), load_u16(p[3] + 2)));
            out = wasm_f32x4_add(out, wasm_f32x4_mul(m, wasm_f32x4_mul(dx, wasm_f32x4_convert_i32x4(sum))));
        }
    }
    return out;
}

INLINE v128 rows_q8_0(const uint8_t* const rows[4], const Block32Wide* x, uint32_t n_blocks) {
    v128 out = zero();
    for (uint32_t b = 0; b < n_blocks; b++, x++) {
        v128 isum[4];
        const uint8_t* p[4];
        for (int r = 0; r < 4; r++) {
            p[r] = rows[r] + (size_t)b * Q8_0_BYTES;
            v128 low = wasm_i32x4_add(wasm_i32x4_dot_i16x8(load(x->q), wasm_i16x8_load8x8(p[r] + 2)),
                                      wasm_i32x4_dot_i16x8(load(x->q + 8), wasm_i16x8_load8x8(p[r] + 10)));
            v128 high = wasm_i32x4_add(wasm_i32x4_dot_i16x8(load(x->q + 16), wasm_i16x8_load8x8(p[r] + 18)),
                                       wasm_i32x4_dot_i16x8(load(x->q + 24), wasm_i16x8_load8x8(p[r] + 26)));
            isum[r] = wasm_i32x4_add(low, high);
        }
        v128 d = f16_to_f32(wasm_u32x4_make(load_u16(p[0]), load_u16(p[1]), load_u16(p[2]), load_u16(p[3])));
        v128 sums = wasm_f32x4_convert_i32x4(sum_each(isum[0], isum[1], isum[2], isum[3]));
        out = wasm_f32x4_add(out, wasm_f32x4_mul(wasm_f32x4_mul(d, splat_f32(x->d)), sums));
    }
    return out;
}
