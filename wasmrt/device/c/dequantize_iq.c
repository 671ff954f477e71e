// The formats with looked-up weights and the ternary ones to f32, bit for bit as gguf/quants/iq.py and ternary.py.
#include "kernels.h"
#include "signed.h"

// 16 signed bytes times a number.
static void scaled(v128 q, float d, float* y) {
    v128 low = wasm_i16x8_extend_low_i8x16(q), high = wasm_i16x8_extend_high_i8x16(q);
    store(y, wasm_f32x4_mul(wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(low)), splat_f32(d)));
    store(y + 4, wasm_f32x4_mul(wasm_f32x4_convert_i32x4(wasm_i32x4_extend_high_i16x8(low)), splat_f32(d)));
    store(y + 8, wasm_f32x4_mul(wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(high)), splat_f32(d)));
    store(y + 12, wasm_f32x4_mul(wasm_f32x4_convert_i32x4(wasm_i32x4_extend_high_i16x8(high)), splat_f32(d)));
}

// 32 weights whose 4 bits name one of 16.
static void looked_up(v128 table, v128 q, float d, float* y) {
    scaled(look_up(table, field(q, 0, 15)), d, y);
    scaled(look_up(table, field(q, 4, 15)), d, y + 16);
}

// The factor and a scale are few bits each, so that their product is exact, and w the one rounding that it is by definition.
INLINE void signed_row(int type, const uint8_t* p, float* y, uint32_t n) {
    for (; n; n -= 256, p += signed_bytes(type), y += 256) {
        float d = half_to_float((uint16_t)signed_d(type, p)) * signed_factor(type);
        int16_t s[16];
        v128 m[2], minus[2];
        signed_scales(type, p, s);
#pragma clang loop unroll(disable)
        for (int g = 0; g < 8; g++) {
            unpack_signed(type, p, g, m, minus);
            scaled(flip(m[0], minus[0]), d * (float)s[scales_by_32(type) ? g : 2 * g], y + 32 * g);
            scaled(flip(m[1], minus[1]), d * (float)s[scales_by_32(type) ? g : 2 * g + 1], y + 32 * g + 16);
        }
    }
}

int dequantize_iq(uint32_t type, const uint8_t* p, float* y, uint32_t n) {
    switch (type) {
        case IQ4_NL:
            for (; n; n -= 32, p += IQ4_NL_BYTES, y += 32) looked_up(NONLINEAR, load(p + 2), half_to_float(load_u16(p)), y);
            return 1;
        case MXFP4:
            for (; n; n -= 32, p += MXFP4_BYTES, y += 32)
                looked_up(E2M1, load(p + 1), wasm_f32x4_extract_lane(mxfp4_scales(wasm_i32x4_splat(p[0])), 0), y);
            return 1;
#define SIGNED(T)                  \
    case T:                        \
        signed_row(T, p, y, n);    \
        return 1;
        SIGNED(IQ4_XS) SIGNED(IQ3_S) SIGNED(IQ3_XXS) SIGNED(IQ2_S) SIGNED(IQ2_XS) SIGNED(IQ2_XXS) SIGNED(IQ1_M) SIGNED(IQ1_S)
        SIGNED(TQ2_0) SIGNED(TQ1_0)
    }
    return 0;
}
