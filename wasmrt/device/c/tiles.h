// The tile kernels: rows of a weight, unpacked once, times eight tokens at a time. For prefill.
//
// A vector of x holds four bytes of each of four tokens (quantize.h), so four bytes of a row, repeated four times, meet it in
// one product, and lanes are tokens from there on: no sum across lanes. Every output is the same expression as in rows.h.
#pragma once
#include "rows.h"

// Two rows of a block, in the order in which they meet a tile: of each row in turn four bytes, repeated to fill a vector, and
// after the steps that a scale is for, the scale of each row. Repeated here, since wasmtime's compiler would repeat them by way
// of general registers, and would not see a multiply-add where one side is a splat. One stream, since each address costs it two
// instructions.
typedef struct { v128 stream[192], m[8][2]; float d[2], dmin[2]; } Pair256;
typedef struct { v128 q[8][2]; float d[2], m[2]; } Pair32;
typedef struct { v128 q[16][2]; float d[2]; uint8_t pad[8]; } Pair32Wide;
typedef struct { v128 q[128][2]; float d[2]; uint8_t pad[8]; } Pair256Wide;

// The four words of x, each repeated, in every second place.
INLINE void spread(v128* to, v128 x) {
    store(to, wasm_i32x4_shuffle(x, x, 0, 0, 0, 0)), store(to + 2, wasm_i32x4_shuffle(x, x, 1, 1, 1, 1));
    store(to + 4, wasm_i32x4_shuffle(x, x, 2, 2, 2, 2)), store(to + 6, wasm_i32x4_shuffle(x, x, 3, 3, 3, 3));
}

// Products of pairs that an i16 holds: 127 * 2 * 15 * 8, * 31 * 4 and * 63 * 2 are below 2^15.
INLINE int steps(int type) { return type == Q6_K ? 2 : type == Q4_K ? 8 : 4; }

// Row r of a pair.
INLINE void unpack_k(int type, const uint8_t* p, Pair256* u, int r) {
    v128 s[2], m[2], q[4];
    const int n_steps = steps(type), group = 2 * n_steps + 2;  // vectors of the stream between two scales
    v128* to = u->stream + r;
    unpack_scales(type, p, s, m);
// Sixteen weights are four steps.
#define SIXTEEN(j, i)                                                                                                         \
    if (n_steps == 2) {                                                                                                       \
        v128 scale = wasm_i16x8_splat(wasm_i16x8_extract_lane(s[(4 * j + i) / 8], (4 * j + i) % 8));                          \
        store(to, wasm_i32x4_shuffle(q[i], q[i], 0, 0, 0, 0)), store(to + 2, wasm_i32x4_shuffle(q[i], q[i], 1, 1, 1, 1));     \
        store(to + 6, wasm_i32x4_shuffle(q[i], q[i], 2, 2, 2, 2)), store(to + 8, wasm_i32x4_shuffle(q[i], q[i], 3, 3, 3, 3)); \
        store(to + 4, scale), store(to + 10, scale);                                                                          \
        to += 2 * group;                                                                                                      \
    } else if (n_steps == 4) {                                                                                                \
        spread(to, q[i]);                                                                                                     \
        store(to + 8, by_32(type) ? wasm_i16x8_splat(wasm_i16x8_extract_lane(s[0], (4 * j + i) / 2))                          \
                                  : wasm_i16x8_splat(wasm_i16x8_extract_lane(s[(4 * j + i) / 8], (4 * j + i) % 8)));          \
        to += group;                                                                                                          \
    } else {                                                                                                                  \
        spread(to + i % 2 * 8, q[i]);                                                                                         \
        if (i % 2) {                                                                                                          \
            store(to + 16, wasm_i16x8_splat(wasm_i16x8_extract_lane(s[0], (4 * j + i) / 2)));                                 \
            to += group;                                                                                                      \
        }                                                                                                                     \
    }
#define QUARTER(j)                 \
    unpack_quarter(type, p, j, q); \
    SIXTEEN(j, 0) SIXTEEN(j, 1) SIXTEEN(j, 2) SIXTEEN(j, 3)
    QUARTER(0) QUARTER(1) QUARTER(2) QUARTER(3)
#undef QUARTER
#undef SIXTEEN
    spread(&u->m[0][r], m[0]);
    if (!by_32(type)) spread(&u->m[4][r], m[1]);
    uint32_t factors = k_factors(type, p);
    u->d[r] = half_to_float((uint16_t)factors);
    u->dmin[r] = half_to_float((uint16_t)(factors >> 16));
}

// What a step, four weights, adds to the four sums of two rows and two halves of a tile.
#define STEP(part, w, x)                                                                                                       \
    do {                                                                                                                       \
        v128 first = load(w), second = load((w) + 1), low = load(x), high = load((x) + 1);                                     \
        part[0] = wasm_i16x8_add(part[0], dot_pairs(low, first)), part[1] = wasm_i16x8_add(part[1], dot_pairs(high, first));   \
        part[2] = wasm_i16x8_add(part[2], dot_pairs(low, second)), part[3] = wasm_i16x8_add(part[3], dot_pairs(high, second)); \
    } while (0)

// The products of n_steps steps of two rows and a tile, summed; *w and *x move on.
//   The loop goes two steps a turn and is not unrolled: wasmtime's compiler loads all that a block loads before it computes,
//   and more than this does not fit the registers. The empty asm keeps an address in one register.
INLINE void products(v128 part[4], const v128** w_at, const v128** x_at, int n_steps) {
    const v128 *w = *w_at, *x = *x_at, *end = x + 2 * n_steps;
    for (int i = 0; i < 4; i++) part[i] = zero();
#pragma clang loop unroll(disable)
    do {
        __asm__("" : "+r"(w), "+r"(x));
        STEP(part, w, x);
        STEP(part, w + 2, x + 2);
        w += 4, x += 4;
    } while (n_steps > 2 && x != end);
    *w_at = w, *x_at = x;
}

// Two rows times one tile, added to out[2][8].
INLINE void k_tile(int type, const Pair256* u, const Tile256* tile, float* out, size_t stride) {
    v128 sum[4] = {zero(), zero(), zero(), zero()};
    const int n_steps = steps(type);
    const v128 *w = u->stream, *x = (const v128*)tile->q, *end = x + 128;
#pragma clang loop unroll(disable)
    do {
        v128 part[4];
        products(part, &w, &x, n_steps);
        v128 a = load(w), b = load(w + 1);
        w += 2;
        ADD_DOT(sum[0], part[0], a), ADD_DOT(sum[1], part[1], a);
        ADD_DOT(sum[2], part[2], b), ADD_DOT(sum[3], part[3], b);
    } while (x != end);
    v128 least[4] = {zero(), zero(), zero(), zero()};
    const v128 *m = u->m[0], *sums = by_32(type) ? (const v128*)tile->sums_32 : (const v128*)tile->sums_16;
    const v128* sums_end = sums + (by_32(type) ? 8 : 16);
#pragma clang loop unroll(disable)
    do {
        __asm__("" : "+r"(m), "+r"(sums));
        v128 first = load(m), second = load(m + 1), low = load(sums), high = load(sums + 1);
        ADD_DOT(least[0], first, low), ADD_DOT(least[1], first, high);
        ADD_DOT(least[2], second, low), ADD_DOT(least[3], second, high);
        m += 2, sums += 2;
    } while (sums != sums_end);
#pragma clang loop unroll(full)
    for (int i = 0; i < 4; i++) {
        int r = i / 2, h = i % 2;
        float* to = out + (size_t)r * stride + 4 * h;
        v128 dx = load(tile->d[h]), y = load(to);
        v128 isum = has_min(type) ? sum[i] : wasm_i32x4_sub(sum[i], least[i]);
        y = wasm_f32x4_add(y, wasm_f32x4_mul(wasm_f32x4_mul(splat_f32(u->d[r]), dx), wasm_f32x4_convert_i32x4(isum)));
        v128 msum = wasm_f32x4_convert_i32x4(least[i]);
        if (has_min(type)) y = wasm_f32x4_sub(y, wasm_f32x4_mul(wasm_f32x4_mul(splat_f32(u->dmin[r]), dx), msum));
        store(to, y);
    }
}

INLINE void unpack_32_row(int type, const uint8_t* p, Pair32* u, int r) {
    v128 q[2];
    unpack_32(type, p, q);
    spread(&u->q[0][r], q[0]), spread(&u->q[4][r], q[1]);
    u->d[r] = wasm_f32x4_extract_lane(scales_32(type, wasm_i32x4_splat((int32_t)load_u32(p))), 0);
    u->m[r] = has_m(type) ? half_to_float(load_u16(p + 2)) : 0;
}

INLINE void tile_32(int type, const Pair32* u, const Tile32* tile, float* out, size_t stride) {
    v128 sum[4] = {zero(), zero(), zero(), zero()};
    const int n_steps = type == Q4_0 || type == Q4_1 ? 8 : 4;
    const v128 *w = u->q[0], *x = (const v128*)tile->q, *end = x + 16;
#pragma clang loop unroll(disable)
    do {
        v128 part[4];
        products(part, &w, &x, n_steps);
#pragma clang loop unroll(full)
        for (int i = 0; i < 4; i++) sum[i] = wasm_i32x4_add(sum[i], wasm_i32x4_extadd_pairwise_i16x8(part[i]));
    } while (x != end);
#pragma clang loop unroll(full)
    for (int i = 0; i < 4; i++) {
        int r = i / 2, h = i % 2;
        float* to = out + (size_t)r * stride + 4 * h;
        v128 dx = load(tile->d[h]), xs = load(tile->sum[h]), y = load(to), total = sum[i];
        if (!has_m(type)) total = wasm_i32x4_sub(total, zero_times(type, xs));
        y = wasm_f32x4_add(y, wasm_f32x4_mul(wasm_f32x4_mul(splat_f32(u->d[r]), dx), wasm_f32x4_convert_i32x4(total)));
        if (has_m(type))
            y = wasm_f32x4_add(y, wasm_f32x4_mul(splat_f32(u->m[r]), wasm_f32x4_mul(dx, wasm_f32x4_convert_i32x4(xs))));
        store(to, y);
    }
}

INLINE void unpack_wide_row(int type, const uint8_t* p, Pair32Wide* u, int r) {
    v128 q[2];
    unpack_wide(type, p, q);
    spread(&u->q[0][r], wasm_i16x8_extend_low_i8x16(q[0])), spread(&u->q[4][r], wasm_i16x8_extend_high_i8x16(q[0]));
    spread(&u->q[8][r], wasm_i16x8_extend_low_i8x16(q[1])), spread(&u->q[12][r], wasm_i16x8_extend_high_i8x16(q[1]));
    u->d[r] = half_to_float(load_u16(p));
}

// Weights times their scale: at most 127 * 32 of IQ4_XS.
INLINE void unpack_signed_row(int type, const uint8_t* p, Pair256Wide* u, int r) {
    int16_t s[16];
    v128 m[2], minus[2];
    signed_scales(type, p, s);
#pragma clang loop unroll(disable)
    for (int g = 0; g < 8; g++) {
        unpack_signed(type, p, g, m, minus);
#pragma clang loop unroll(full)
        for (int i = 0; i < 2; i++) {
            v128 q = flip(m[i], minus[i]), scale = signed_scale(type, s, g, i), *to = &u->q[16 * g + 8 * i][r];
            spread(to, wasm_i16x8_mul(wasm_i16x8_extend_low_i8x16(q), scale));
            spread(to + 8, wasm_i16x8_mul(wasm_i16x8_extend_high_i8x16(q), scale));
        }
    }
    u->d[r] = half_to_float((uint16_t)signed_d(type, p)) * signed_factor(type);
}

// Two rows of i16 times one tile of i16, `n` steps of two weights, added to out[2][8].
INLINE void tile_wide(int n, const v128* w, const float d[2], const v128* x, const float dx[2][4], float* out, size_t stride) {
    const v128* end = x + 2 * n;
    v128 sum[4] = {zero(), zero(), zero(), zero()};
#pragma clang loop unroll(disable)
    do {
        __asm__("" : "+r"(w), "+r"(x));
#define STEP_WIDE(w, x)                                                                    \
    do {                                                                                   \
        v128 first = load(w), second = load((w) + 1), low = load(x), high = load((x) + 1); \
        ADD_DOT(sum[0], first, low), ADD_DOT(sum[1], first, high);                         \
        ADD_DOT(sum[2], second, low), ADD_DOT(sum[3], second, high);                       \
    } while (0)
        STEP_WIDE(w, x);
        STEP_WIDE(w + 2, x + 2);
        w += 4, x += 4;
    } while (x != end);
#pragma clang loop unroll(full)
    for (int i = 0; i < 4; i++) {
        float* to = out + (size_t)(i / 2) * stride + 4 * (i % 2);
        v128 scale = wasm_f32x4_mul(splat_f32(d[i / 2]), load(dx[i % 2]));
        store(to, wasm_f32x4_add(load(to), wasm_f32x4_mul(scale, wasm_f32x4_convert_i32x4(sum[i]))));
    }
}
