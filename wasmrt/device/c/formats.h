// Block layouts: offsets in bytes. Source: ggml; gguf/quants.py tells what each field means.
#pragma once
#include "simd.h"

enum { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14, BF16 = 30 };

enum { Q4_0_BYTES = 18, Q4_1_BYTES = 20, Q5_0_BYTES = 22, Q5_1_BYTES = 24, Q8_0_BYTES = 34 };                    // of 32 weights
enum { Q2_K_BYTES = 84, Q3_K_BYTES = 110, Q4_K_BYTES = 144, Q5_K_BYTES = 176, Q6_K_BYTES = 210 };              // of 256

// The eight 6-bit scales and eight 6-bit mins of Q4_K and Q5_K, from 12 bytes to i16. Source: ggml get_scale_min_k4.
static inline void k_scales(const uint8_t* p, v128* scales, v128* mins) {
    uint32_t low = load_u32(p), middle = load_u32(p + 4), high = load_u32(p + 8);
    uint64_t s = (uint64_t)((high & 0x0f0f0f0f) | ((low >> 2) & 0x30303030)) << 32 | (low & 0x3f3f3f3f);
    uint64_t m = (uint64_t)((high >> 4 & 0x0f0f0f0f) | ((middle >> 2) & 0x30303030)) << 32 | (middle & 0x3f3f3f3f);
    *scales = wasm_u16x8_extend_low_u8x16(wasm_i64x2_make((int64_t)s, 0));
    *mins = wasm_u16x8_extend_low_u8x16(wasm_i64x2_make((int64_t)m, 0));
}

// The sixteen 6-bit scales of Q3_K, from 12 bytes to 0..63.
static inline v128 q3_scales(const uint8_t* p) {
    uint32_t a = load_u32(p), b = load_u32(p + 4), top = load_u32(p + 8);
    v128 low = wasm_u32x4_make(a & 0x0f0f0f0f, b & 0x0f0f0f0f, a >> 4 & 0x0f0f0f0f, b >> 4 & 0x0f0f0f0f);
    v128 high = wasm_u32x4_make(top & 0x03030303, top >> 2 & 0x03030303, top >> 4 & 0x03030303, top >> 6 & 0x03030303);
    return wasm_v128_or(low, wasm_i32x4_shl(high, 4));
}
