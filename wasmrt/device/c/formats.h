// Block layouts: offsets in bytes. Source: ggml; gguf/quants.py tells what each field means.
#pragma once
#include "simd.h"

enum { F32 = 0, F16 = 1, BF16 = 30, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8 };
enum { Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14 };
enum { IQ2_XXS = 16, IQ2_XS = 17, IQ3_XXS = 18, IQ1_S = 19, IQ4_NL = 20, IQ3_S = 21, IQ2_S = 22, IQ4_XS = 23, IQ1_M = 29 };
enum { TQ1_0 = 34, TQ2_0 = 35, MXFP4 = 39 };

// Of 32 weights, and of 256.
enum { Q4_0_BYTES = 18, Q4_1_BYTES = 20, Q5_0_BYTES = 22, Q5_1_BYTES = 24, Q8_0_BYTES = 34 };
enum { IQ4_NL_BYTES = 18, MXFP4_BYTES = 17 };
enum { Q2_K_BYTES = 84, Q3_K_BYTES = 110, Q4_K_BYTES = 144, Q5_K_BYTES = 176, Q6_K_BYTES = 210, IQ4_XS_BYTES = 136 };
enum { IQ2_XXS_BYTES = 66, IQ2_XS_BYTES = 74, IQ2_S_BYTES = 82, IQ3_XXS_BYTES = 98, IQ3_S_BYTES = 110 };
enum { IQ1_S_BYTES = 50, IQ1_M_BYTES = 56, TQ1_0_BYTES = 54, TQ2_0_BYTES = 66 };

// The weights of IQ4_NL and IQ4_XS, and of MXFP4, doubled.
#define NONLINEAR wasm_i8x16_const(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
#define E2M1 wasm_i8x16_const(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)

// The eight 6-bit scales and eight 6-bit mins of Q4_K and Q5_K as bytes, from a superblock's first 16 bytes: d and dmin, then
// s0-3 and m0-3 in the low six bits, then the low nibbles of s4-7 and m4-7, whose top two bits top the first eight.
// Source: ggml get_scale_min_k4.
static inline v128 k_scale_bytes(v128 head) {
    v128 low = wasm_i8x16_shuffle(head, head, 4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
    v128 top = wasm_i8x16_shuffle(head, head, 0, 0, 0, 0, 4, 5, 6, 7, 0, 0, 0, 0, 8, 9, 10, 11);
    v128 s = wasm_v128_and(low, wasm_u32x4_const(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0));
    v128 m = wasm_v128_and(wasm_u16x8_shr(low, 4), wasm_u32x4_const(0, 0, 0, 0x0f0f0f0f));
    v128 bits = wasm_v128_and(wasm_u16x8_shr(top, 2), wasm_u32x4_const(0, 0x30303030, 0, 0x30303030));
    return wasm_v128_or(wasm_v128_or(s, m), bits);
}

static inline void k_scales(v128 head, v128* scales, v128* mins) {
    v128 bytes = k_scale_bytes(head);
    *scales = wasm_u16x8_extend_low_u8x16(bytes);
    *mins = wasm_u16x8_extend_high_u8x16(bytes);
}

// The sixteen 6-bit scales of Q3_K, from 12 bytes to 0..63.
static inline v128 q3_scales(const uint8_t* p) {
    uint32_t a = load_u32(p), b = load_u32(p + 4), top = load_u32(p + 8);
    v128 low = wasm_u32x4_make(a & 0x0f0f0f0f, b & 0x0f0f0f0f, a >> 4 & 0x0f0f0f0f, b >> 4 & 0x0f0f0f0f);
    v128 high = wasm_u32x4_make(top & 0x03030303, top >> 2 & 0x03030303, top >> 4 & 0x03030303, top >> 6 & 0x03030303);
    return wasm_v128_or(low, wasm_i32x4_shl(high, 4));
}

// The eight scales of IQ4_XS as i16, -32..31, from a superblock's first 16 bytes: after d the high two bits of each, then four.
static inline v128 iq4_xs_scales(v128 head) {
    v128 high = wasm_i16x8_shuffle(head, head, 1, 1, 1, 1, 1, 1, 1, 1);
    v128 low = wasm_i16x8_shuffle(head, head, 2, 2, 2, 2, 3, 3, 3, 3);
    high = wasm_i16x8_mul(high, wasm_i16x8_const(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 1 << 2, 1));
    low = wasm_i16x8_mul(low, wasm_i16x8_const(1 << 12, 1 << 8, 1 << 4, 1, 1 << 12, 1 << 8, 1 << 4, 1));
    high = wasm_v128_and(wasm_u16x8_shr(high, 10), wasm_i16x8_const_splat(48));
    return wasm_i16x8_sub(wasm_v128_or(high, wasm_u16x8_shr(low, 12)), wasm_i16x8_const_splat(32));
}

// The scale of MXFP4 blocks from e in four u32: 2^(e - 128), subnormal if e is 0 or 1.
static inline v128 mxfp4_scales(v128 e) {
    v128 normal = wasm_i32x4_shl(wasm_i32x4_sub(e, wasm_i32x4_const_splat(1)), 23);
    v128 tiny = wasm_i32x4_shl(wasm_i32x4_add(e, wasm_i32x4_const_splat(1)), 21);
    return wasm_v128_bitselect(tiny, normal, wasm_i32x4_lt(e, wasm_i32x4_const_splat(2)));
}

// dequantize (kernels.h) of the formats of dequantize_iq.c; 0 if it is none of them.
int dequantize_iq(uint32_t type, const uint8_t* packed, float* out, uint32_t n);
