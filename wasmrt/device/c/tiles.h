// The tile kernels: rows of a weight, unpacked once, times eight tokens at a time. For prefill.
//
// A vector of x holds four bytes of each of four tokens (quantize.h), so four bytes of a row, repeated four times, meet it in one
// product, and lanes are tokens from there on: no sum across lanes. Every output is the same expression as in rows.h.
#pragma once
#include "rows.h"

#define GROUP_ROWS 8  // rows that are unpacked together, and pass over the tiles together

typedef struct { uint8_t q[256]; int16_t s[16], m[16]; float d, dmin; uint8_t pad[8]; } Unpacked256;
typedef struct { uint8_t q[32]; float d, m; uint8_t pad[8]; } Unpacked32;
typedef struct { int16_t q[32]; float d; uint8_t pad[12]; } Unpacked32Wide;

INLINE void unpack_k(int type, const uint8_t* p, Unpacked256* u) {
    v128 s[2], m[2], q[4];
#define QUARTER(j)                                                                           \
    unpack_quarter(type, p, j, q);                                                           \
    store(u->q + 64 * j, q[0]), store(u->q + 64 * j + 16, q[1]);                             \
    store(u->q + 64 * j + 32, q[2]), store(u->q + 64 * j + 48, q[3]);
    QUARTER(0) QUARTER(1) QUARTER(2) QUARTER(3)
#undef QUARTER
    unpack_scales(type, p, s, m);
    store(u->s, s[0]), store(u->m, m[0]);
    if (!by_32(type)) store(u->s + 8, s[1]), store(u->m + 8, m[1]);
    u->d = half_to_float((uint16_t)k_d(type, p));
    u->dmin = has_min(type) ? half_to_float((uint16_t)k_dmin(type, p)) : 0;
}

// Products of pairs that an i16 holds: 127 * 2 * 15 * 8, * 31 * 4 and * 63 * 2 are below 2^15.
INLINE int steps(int type) { return type == Q6_K ? 2 : type == Q5_K ? 4 : by_32(type) ? 8 : 4; }

// Two rows times one tile, added to out[2][8].
INLINE void k_tile(int type, const Unpacked256* u, const Tile256* x, float* out, size_t stride) {
    v128 sum[2][2] = {{zero(), zero()}, {zero(), zero()}};
    const int n_steps = steps(type), per_scale = by_32(type) ? 8 : 4;
#pragma clang loop unroll(full)
    for (int i = 0; i < 64; i += n_steps) {
        v128 part[2][2];
#pragma clang loop unroll(full)
        for (int k = 0; k < n_steps; k++) {
            v128 x0 = load(x->q[i + k][0]), x1 = load(x->q[i + k][1]);
#pragma clang loop unroll(full)
            for (int r = 0; r < 2; r++) {
                v128 w = wasm_v128_load32_splat(u[r].q + 4 * (i + k));
                part[r][0] = k ? wasm_i16x8_add(part[r][0], dot_pairs(x0, w)) : dot_pairs(x0, w);
                part[r][1] = k ? wasm_i16x8_add(part[r][1], dot_pairs(x1, w)) : dot_pairs(x1, w);
            }
        }
#pragma clang loop unroll(full)
        for (int r = 0; r < 2; r++) {
            v128 s = wasm_v128_load16_splat(u[r].s + i / per_scale);
            sum[r][0] = wasm_i32x4_add(sum[r][0], wasm_i32x4_dot_i16x8(part[r][0], s));
            sum[r][1] = wasm_i32x4_add(sum[r][1], wasm_i32x4_dot_i16x8(part[r][1], s));
        }
    }
#pragma clang loop unroll(full)
    for (int r = 0; r < 2; r++) {
        v128 least[2] = {zero(), zero()};
#pragma clang loop unroll(full)
        for (int k = 0; k < (by_32(type) ? 4 : 8); k++) {
            v128 m = wasm_v128_load32_splat(u[r].m + 2 * k);
            for (int h = 0; h < 2; h++) {
                const void* sums = by_32(type) ? (const void*)x->sums_32[k][h] : (const void*)x->sums_16[k][h];
                least[h] = wasm_i32x4_add(least[h], wasm_i32x4_dot_i16x8(m, load(sums)));
            }
        }
#pragma clang loop unroll(full)
        for (int h = 0; h < 2; h++) {
            float* to = out + (size_t)r * stride + 4 * h;
            v128 dx = load(x->d[h]), y = load(to);
            v128 isum = has_min(type) ? sum[r][h] : wasm_i32x4_sub(sum[r][h], least[h]);
            y = wasm_f32x4_add(y, wasm_f32x4_mul(wasm_f32x4_mul(splat_f32(u[r].d), dx), wasm_f32x4_convert_i32x4(isum)));
            if (has_min(type))
                y = wasm_f32x4_sub(y, wasm_f32x4_mul(wasm_f32x4_mul(splat_f32(u[r].dmin), dx), wasm_f32x4_convert_i32x4(least[h])));
            store(to, y);
        }
    }
}

INLINE void unpack_32_row(int type, const uint8_t* p, Unpacked32* u) {
    v128 q[2];
    unpack_32(type, p, q);
    store(u->q, q[0]), store(u->q + 16, q[1]);
    u->d = half_to_float(load_u16(p));
    u->m = has_m(type) ? half_to_float(load_u16(p + 2)) : 0;
}

INLINE void tile_32(int type, const Unpacked32* u, const Tile32* x, float* out, size_t stride) {
    v128 sum[2][2], ones = wasm_i16x8_const_splat(1);
    const int n_steps = type == Q4_0 || type == Q4_1 ? 8 : 4;
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; i += n_steps) {
        v128 part[2][2];
#pragma clang loop unroll(full)
        for (int k = 0; k < n_steps; k++)
#pragma clang loop unroll(full)
            for (int r = 0; r < 2; r++)
#pragma clang loop unroll(full)
                for (int h = 0; h < 2; h++) {
                    v128 product = dot_pairs(load(x->q[i + k][h]), wasm_v128_load32_splat(u[r].q + 4 * (i + k)));
                    part[r][h] = k ? wasm_i16x8_add(part[r][h], product) : product;
                }
#pragma clang loop unroll(full)
        for (int r = 0; r < 2; r++)
#pragma clang loop unroll(full)
            for (int h = 0; h < 2; h++) {
                v128 wide = wasm_i32x4_dot_i16x8(part[r][h], ones);
                sum[r][h] = i ? wasm_i32x4_add(sum[r][h], wide) : wide;
            }
    }
#pragma clang loop unroll(full)
    for (int r = 0; r < 2; r++)
#pragma clang loop unroll(full)
        for (int h = 0; h < 2; h++) {
            float* to = out + (size_t)r * stride + 4 * h;
            v128 dx = load(x->d[h]), xs = load(x->sum[h]), y = load(to), total = sum[r][h];
            if (!has_m(type)) total = wasm_i32x4_sub(total, wasm_i32x4_shl(xs, type == Q4_0 ? 3 : 4));
            y = wasm_f32x4_add(y, wasm_f32x4_mul(wasm_f32x4_mul(splat_f32(u[r].d), dx), wasm_f32x4_convert_i32x4(total)));
            if (has_m(type))
                y = wasm_f32x4_add(y, wasm_f32x4_mul(splat_f32(u[r].m), wasm_f32x4_mul(dx, wasm_f32x4_convert_i32x4(xs))));
            store(to, y);
        }
}

INLINE void unpack_q8_0_row(const uint8_t* p, Unpacked32Wide* u) {
    for (int i = 0; i < 32; i += 8) store(u->q + i, wasm_i16x8_load8x8(p + 2 + i));
    u->d = half_to_float(load_u16(p));
}

INLINE void tile_q8_0(const Unpacked32Wide* u, const Tile32Wide* x, float* out, size_t stride) {
    v128 sum[2][2];
#pragma clang loop unroll(full)
    for (int k = 0; k < 16; k++)
#pragma clang loop unroll(full)
        for (int r = 0; r < 2; r++)
#pragma clang loop unroll(full)
            for (int h = 0; h < 2; h++) {
                v128 product = wasm_i32x4_dot_i16x8(load(x->q[k][h]), wasm_v128_load32_splat(u[r].q + 2 * k));
                sum[r][h] = k ? wasm_i32x4_add(sum[r][h], product) : product;
            }
#pragma clang loop unroll(full)
    for (int r = 0; r < 2; r++)
#pragma clang loop unroll(full)
        for (int h = 0; h < 2; h++) {
            float* to = out + (size_t)r * stride + 4 * h;
            v128 scale = wasm_f32x4_mul(splat_f32(u[r].d), load(x->d[h]));
            store(to, wasm_f32x4_add(load(to), wasm_f32x4_mul(scale, wasm_f32x4_convert_i32x4(sum[r][h]))));
        }
}
