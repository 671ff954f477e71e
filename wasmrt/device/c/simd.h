// SIMD: names for what the kernels use of wasm's 128-bit vectors, and the few operations that differ between builds.
#pragma once
#include <stdint.h>
#include <wasm_simd128.h>

typedef v128_t v128;

#define INLINE static inline __attribute__((always_inline))

#define load(p) wasm_v128_load(p)
#define store(p, x) wasm_v128_store(p, x)
#define splat_f32(x) wasm_f32x4_splat(x)
#define zero() wasm_i32x4_const_splat(0)

// Makes the compiler compute x here. wasmtime's does pure arithmetic as late as it can, so that all loads of a long block come
// first and are spilled; a store, which nobody reads, ends the wait. Measured: rows of Q4_K go from 14 to 17 GB/s a core.
#define SETTLE(x)                                               \
    do {                                                        \
        volatile v128 settled_ __attribute__((unused)) = (x);   \
    } while (0)

// Sums of adjacent products of 16 signed bytes x and 16 bytes w in 0..127, as i16: |x| <= 128, so a pair is at most 32,512.
static inline v128 dot_pairs(v128 x, v128 w) {
#ifdef PLAIN
    v128 low = wasm_i16x8_extmul_low_i8x16(x, w), high = wasm_i16x8_extmul_high_i8x16(x, w);
    v128 even = wasm_i16x8_shuffle(low, high, 0, 2, 4, 6, 8, 10, 12, 14);
    return wasm_i16x8_add(even, wasm_i16x8_shuffle(low, high, 1, 3, 5, 7, 9, 11, 13, 15));
#else
    return wasm_i16x8_relaxed_dot_i8x16_i7x16(x, w);  // within these bounds it has one meaning on every machine
#endif
}

// table[i] for each byte i, 0..15.
static inline v128 look_up(v128 table, v128 i) {
#ifdef PLAIN
    return wasm_i8x16_swizzle(table, i);
#else
    return wasm_i8x16_relaxed_swizzle(table, i);  // within these bounds it has one meaning on every machine
#endif
}

// sum += products of i16 pairs, four at a time
#define ADD_DOT(sum, a, b) sum = wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(a, b))

// The sums of four vectors of four integers each.
static inline v128 sum_each(v128 a, v128 b, v128 c, v128 d) {
    v128 ab = wasm_i32x4_add(wasm_i32x4_shuffle(a, b, 0, 4, 1, 5), wasm_i32x4_shuffle(a, b, 2, 6, 3, 7));
    v128 cd = wasm_i32x4_add(wasm_i32x4_shuffle(c, d, 0, 4, 1, 5), wasm_i32x4_shuffle(c, d, 2, 6, 3, 7));
    return wasm_i32x4_add(wasm_i64x2_shuffle(ab, cd, 0, 2), wasm_i64x2_shuffle(ab, cd, 1, 3));
}

// The sum of four floats, always in this order.
static inline float sum_f32(v128 x) {
    return (wasm_f32x4_extract_lane(x, 0) + wasm_f32x4_extract_lane(x, 1)) +
           (wasm_f32x4_extract_lane(x, 2) + wasm_f32x4_extract_lane(x, 3));
}

static inline float max_f32(v128 x) {
    x = wasm_f32x4_pmax(x, wasm_i32x4_shuffle(x, x, 2, 3, 0, 1));
    x = wasm_f32x4_pmax(x, wasm_i32x4_shuffle(x, x, 1, 0, 3, 2));
    return wasm_f32x4_extract_lane(x, 0);
}

// Four f16 in the low halves of four u32, to f32: exact, subnormals, infinities and NaN too.
static inline v128 f16_to_f32(v128 h) {
    v128 magnitude = wasm_v128_and(h, wasm_i32x4_const_splat(0x7fff));
    v128 normal = wasm_i32x4_add(wasm_i32x4_shl(magnitude, 13), wasm_i32x4_const_splat(112 << 23));
    // Subnormals, which scales often are, as integers: processors are slow at f32 subnormals.
    v128 tiny = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(magnitude), wasm_f32x4_const_splat(0x1p-24f));
    v128 x = wasm_v128_bitselect(tiny, normal, wasm_i32x4_lt(magnitude, wasm_i32x4_const_splat(0x400)));
    v128 special = wasm_i32x4_gt(magnitude, wasm_i32x4_const_splat(0x7bff));
    x = wasm_v128_or(x, wasm_v128_and(special, wasm_i32x4_const_splat(0x7f800000)));
    return wasm_v128_or(x, wasm_i32x4_shl(wasm_v128_and(h, wasm_i32x4_const_splat(0x8000)), 16));
}

static inline float half_to_float(uint16_t h) { return wasm_f32x4_extract_lane(f16_to_f32(wasm_i32x4_splat(h)), 0); }

static inline uint16_t load_u16(const void* p) {
    uint16_t x;
    __builtin_memcpy(&x, p, 2);
    return x;
}

static inline uint32_t load_u32(const void* p) {
    uint32_t x;
    __builtin_memcpy(&x, p, 4);
    return x;
}
