// Weights in F32, F16 and BF16 times x in f32: sixteen lanes, always summed the same way, so that a row gives the same bits
// whether its weights are converted on the way (few tokens) or beforehand (many).
#pragma once
#include "formats.h"
#include "kernels.h"

// Four weights from i on.
INLINE v128 four_f32(uint32_t type, const uint8_t* w) {
    if (type == F32) return load(w);
    if (type == BF16) return wasm_i32x4_shl(wasm_u32x4_load16x4(w), 16);
    // Sign, exponent and mantissa of an f16 fall into place in one shift of the sign-extended number; the factor mends the
    // exponent and is exact for subnormals too. Infinities and NaN come out finite: see dot().
    v128 bits = wasm_v128_and(wasm_i32x4_shl(wasm_i32x4_load16x4(w), 13), wasm_i32x4_const_splat((int32_t)0x8fffe000));
    return wasm_f32x4_mul(bits, wasm_f32x4_const_splat(0x1p112f));
}

// *wrong becomes nonzero if a weight is an f16 infinity or NaN; the result then means nothing.
INLINE float dot(uint32_t type, const uint8_t* w, const float* x, uint32_t n, int* wrong) {
    const uint32_t size = type == F32 ? 4 : 2;
    const v128 exponent = wasm_i16x8_const_splat(0x7c00);
    v128 special = zero();
    v128 a = zero(), b = zero(), c = zero(), d = zero();
    const float* end = x + (n & ~15u);
    while (x != end) {
        __asm__("" : "+r"(w), "+r"(x));
        a = wasm_f32x4_add(a, wasm_f32x4_mul(four_f32(type, w), load(x)));
        b = wasm_f32x4_add(b, wasm_f32x4_mul(four_f32(type, w + 4 * size), load(x + 4)));
        c = wasm_f32x4_add(c, wasm_f32x4_mul(four_f32(type, w + 8 * size), load(x + 8)));
        d = wasm_f32x4_add(d, wasm_f32x4_mul(four_f32(type, w + 12 * size), load(x + 12)));
        if (type == F16) {
            special = wasm_v128_or(special, wasm_i16x8_eq(wasm_v128_and(load(w), exponent), exponent));
            special = wasm_v128_or(special, wasm_i16x8_eq(wasm_v128_and(load(w + 16), exponent), exponent));
        }
        w += 16 * size, x += 16;
    }
    *wrong |= wasm_v128_any_true(special);
    float sum = sum_f32(wasm_f32x4_add(wasm_f32x4_add(a, b), wasm_f32x4_add(c, d)));
    float last[16];
    dequantize(type, w, last, n & 15);
    for (uint32_t i = 0; i < (n & 15); i++) sum += last[i] * x[i];
    return sum;
}

#define FLOAT_ROWS 4  // rows that meet a token together, so that x is not read from afar for each

// Rows that follow one another times n_tokens rows of x, x_width apart: y[t * m + r]. room: for FLOAT_ROWS rows.
static inline void float_rows(
    const Weight* w, const uint8_t* p, const float* x, size_t x_width, float* y, size_t m, uint32_t n_rows, uint32_t n_tokens,
    float* room
) {
    for (uint32_t r = 0, count; r < n_rows; r += count, p += (size_t)count * w->row_bytes) {
        count = n_rows - r < FLOAT_ROWS ? n_rows - r : FLOAT_ROWS;
        int wrong = 0;
        if (n_tokens == 1 && w->type != F32) {
            y[r] = w->type == BF16 ? dot(BF16, p, x, w->n, &wrong) : dot(F16, p, x, w->n, &wrong);
            if (!wrong) {
                count = 1;
                continue;
            }
        }
        const uint8_t* rows = p;
        if (w->type != F32) {
            for (uint32_t i = 0; i < count; i++)
                dequantize(w->type, p + (size_t)i * w->row_bytes, room + (size_t)i * w->n, w->n);
            rows = (const uint8_t*)room;
        }
        for (uint32_t t = 0; t < n_tokens; t++)
            for (uint32_t i = 0; i < count; i++)
                y[t * m + r + i] = dot(F32, rows + 4 * (size_t)i * w->n, x + t * x_width, w->n, &wrong);
    }
}
