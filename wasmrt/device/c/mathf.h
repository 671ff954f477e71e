// exp, tanh, log, erfc, sine and cosine: the same operations in each lane and on every machine, so the same bits everywhere.
//   Arguments are reduced by constants in parts, whose products with the quotient are exact (Cody and Waite, "Software Manual
//   for the Elementary Functions", 1980); then the Taylor series, whose constants need no table.
#pragma once
#include "simd.h"

// e^x of four floats, within 1.1 ulp: 0 from -104 down, infinity from 88.73 up, NaN for NaN.
static inline v128 exp_f32x4(v128 x) {
    const v128 round = splat_f32(0x1.8p23f);  // added, it leaves the nearest integer in the low bits
    // pmin and pmax give their first argument where it is NaN.
    x = wasm_f32x4_pmax(wasm_f32x4_pmin(x, splat_f32(89.0f)), splat_f32(-105.0f));
    v128 shifted = wasm_f32x4_add(wasm_f32x4_mul(x, splat_f32(0x1.715476p0f)), round);
    v128 n = wasm_f32x4_sub(shifted, round);
    // log(2) = 355/512 - 0x1.bd0106p-13: the first has 9 bits, n has 8.
    v128 r = wasm_f32x4_sub(x, wasm_f32x4_mul(n, splat_f32(0x1.63p-1f)));
    r = wasm_f32x4_add(r, wasm_f32x4_mul(n, splat_f32(0x1.bd0106p-13f)));
    // |r| <= log(2) / 2: what follows the term of degree 7 is below 2^-27.
    v128 p = splat_f32(1.0f / 5040);
    p = wasm_f32x4_add(wasm_f32x4_mul(p, r), splat_f32(1.0f / 720));
    p = wasm_f32x4_add(wasm_f32x4_mul(p, r), splat_f32(1.0f / 120));
    p = wasm_f32x4_add(wasm_f32x4_mul(p, r), splat_f32(1.0f / 24));
    p = wasm_f32x4_add(wasm_f32x4_mul(p, r), splat_f32(1.0f / 6));
    p = wasm_f32x4_add(wasm_f32x4_mul(p, r), splat_f32(0.5f));
    p = wasm_f32x4_add(wasm_f32x4_mul(wasm_f32x4_mul(r, r), p), r);
    p = wasm_f32x4_add(p, splat_f32(1.0f));
    // Times 2^n in two factors, since n goes from -151 to 128.
    v128 power = wasm_i32x4_sub(shifted, round), half = wasm_i32x4_shr(power, 1), bias = wasm_i32x4_const_splat(127);
    p = wasm_f32x4_mul(p, wasm_i32x4_shl(wasm_i32x4_add(half, bias), 23));
    return wasm_f32x4_mul(p, wasm_i32x4_shl(wasm_i32x4_add(wasm_i32x4_sub(power, half), bias), 23));
}

// tanh(x) within 4 ulp: near 0 Lambert's continued fraction, which keeps the digits of small results.
static inline v128 tanh_f32x4(v128 x) {
    const v128 one = splat_f32(1.0f);
    v128 z = wasm_f32x4_mul(x, x), size = wasm_f32x4_abs(x);
    v128 above = wasm_f32x4_add(wasm_f32x4_mul(wasm_f32x4_add(z, splat_f32(105.0f)), z), splat_f32(945.0f));
    v128 below = wasm_f32x4_add(wasm_f32x4_mul(z, splat_f32(15.0f)), splat_f32(420.0f));
    below = wasm_f32x4_add(wasm_f32x4_mul(below, z), splat_f32(945.0f));
    v128 near = wasm_f32x4_mul(x, wasm_f32x4_div(above, below));
    v128 far = wasm_f32x4_add(exp_f32x4(wasm_f32x4_add(size, size)), one);
    far = wasm_f32x4_sub(one, wasm_f32x4_div(splat_f32(2.0f), far));
    far = wasm_v128_or(far, wasm_v128_and(x, wasm_i32x4_const_splat((int32_t)0x80000000)));
    return wasm_v128_bitselect(near, far, wasm_f32x4_lt(size, splat_f32(0.625f)));
}

// e^x - 1 of x up to 1, keeping the digits of small results: 2 t / (1 - t), t = tanh(x / 2).
static inline v128 expm1_f32x4(v128 x) {
    v128 t = tanh_f32x4(wasm_f32x4_mul(x, splat_f32(0.5f)));
    return wasm_f32x4_div(wasm_f32x4_add(t, t), wasm_f32x4_sub(splat_f32(1.0f), t));
}

// log(1 + x) of x from 0 to 2^29, within 3 ulp: 1 + x = 2^n * m with m in [1/sqrt(2), sqrt(2)), log(m) = 2 artanh(s).
static inline v128 log1p_f32x4(v128 x) {
    const v128 one = splat_f32(1.0f), two = splat_f32(2.0f), least = wasm_i32x4_const_splat(0x3f3504f3);  // 1/sqrt(2)
    v128 u = wasm_f32x4_add(x, one), n = wasm_i32x4_shr(wasm_i32x4_sub(u, least), 23);
    v128 m = wasm_i32x4_sub(u, wasm_i32x4_shl(n, 23));
    // s = (m - 1) / (m + 1); while n is 0 without the rounding of 1 + x.
    v128 small = wasm_i32x4_eq(n, zero());
    v128 s = wasm_f32x4_div(wasm_v128_bitselect(x, wasm_f32x4_sub(m, one), small),
                            wasm_v128_bitselect(wasm_f32x4_add(x, two), wasm_f32x4_add(m, one), small));
    v128 z = wasm_f32x4_mul(s, s), sum = splat_f32(1.0f / 9);  // |s| < 0.172
    sum = wasm_f32x4_add(wasm_f32x4_mul(sum, z), splat_f32(1.0f / 7));
    sum = wasm_f32x4_add(wasm_f32x4_mul(sum, z), splat_f32(1.0f / 5));
    sum = wasm_f32x4_add(wasm_f32x4_mul(sum, z), splat_f32(1.0f / 3));
    s = wasm_f32x4_add(s, s);
    v128 log_m = wasm_f32x4_add(s, wasm_f32x4_mul(s, wasm_f32x4_mul(z, sum)));
    return wasm_f32x4_add(wasm_f32x4_mul(wasm_f32x4_convert_i32x4(n), splat_f32(0x1.62e43p-1f)), log_m);
}

// log(1 + e^x): x itself above 20, NaN for NaN.
static inline v128 softplus_f32x4(v128 x) {
    v128 low = log1p_f32x4(exp_f32x4(wasm_f32x4_pmin(x, splat_f32(20.0f))));
    return wasm_v128_bitselect(low, x, wasm_f32x4_le(x, splat_f32(20.0f)));
}

// erfc(z) of z from 0 up, within 1e-6 of itself down to 1e-30. Source: Numerical Recipes, erfc by Chebyshev fitting (1.2e-7).
static inline v128 erfc_f32x4(v128 z) {
    v128 t = wasm_f32x4_div(splat_f32(1.0f), wasm_f32x4_add(splat_f32(1.0f), wasm_f32x4_mul(z, splat_f32(0.5f))));
    static const float FIT[] = {-0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f, -0.18628806f, 0.09678418f, 0.37409196f,
                                1.00002368f, -1.26551223f};
    v128 fit = splat_f32(0.17087277f);
#pragma clang loop unroll(full)
    for (int i = 0; i < 9; i++) fit = wasm_f32x4_add(wasm_f32x4_mul(fit, t), splat_f32(FIT[i]));
    return wasm_f32x4_mul(t, exp_f32x4(wasm_f32x4_sub(fit, wasm_f32x4_mul(z, z))));
}

static inline float exp_f32(float x) { return wasm_f32x4_extract_lane(exp_f32x4(splat_f32(x)), 0); }

// log(x) of a positive normal double, within 2 ulp: x = 2^n * m with m in [1/sqrt(2), sqrt(2)), and
// log(m) = 2 artanh((m - 1) / (m + 1)).
static inline double log_f64(double x) {
    const uint64_t least = 0x3fe6a09e667f3bcdull;  // the bits of 1/sqrt(2)
    uint64_t bits;
    __builtin_memcpy(&bits, &x, 8);
    double n = (double)((int64_t)(bits - least) >> 52), m;
    bits = ((bits - least) & 0xfffffffffffffull) + least;
    __builtin_memcpy(&m, &bits, 8);
    double s = (m - 1) / (m + 1), square = s * s, sum = 0;  // |s| < 0.172
    for (int k = 23; k > 1; k -= 2) sum = (sum + 1.0 / k) * square;
    return n * 0x1.62e42fefa39efp-1 + (2 * s + 2 * s * sum);
}

// Sine and cosine of two doubles up to 1e7 in size, within 1e-15.
static inline void sincos_f64x2(v128 x, v128* sine, v128* cosine) {
    const v128 round = wasm_f64x2_splat(0x1.8p52), one = wasm_f64x2_splat(1);
    v128 shifted = wasm_f64x2_add(wasm_f64x2_mul(x, wasm_f64x2_splat(0x1.45f306dc9c883p-1)), round);
    v128 n = wasm_f64x2_sub(shifted, round);
    // pi / 2 in parts of 28, 28 and 53 bits; n has 23.
    v128 r = wasm_f64x2_sub(x, wasm_f64x2_mul(n, wasm_f64x2_splat(0x1.921fb54p0)));
    r = wasm_f64x2_sub(r, wasm_f64x2_mul(n, wasm_f64x2_splat(0x1.10b461p-30)));
    r = wasm_f64x2_sub(r, wasm_f64x2_mul(n, wasm_f64x2_splat(0x1.a62633145c06ep-58)));
    // |r| <= pi / 4: each series in nested form, 1 - r^2/(2*3) * (1 - r^2/(4*5) * ...).
    v128 square = wasm_f64x2_mul(r, r), s = one, c = one;
#pragma clang loop unroll(full)
    for (int k = 16; k > 0; k -= 2) {
        s = wasm_f64x2_sub(one, wasm_f64x2_mul(wasm_f64x2_mul(square, wasm_f64x2_splat(1.0 / (k * (k + 1)))), s));
        c = wasm_f64x2_sub(one, wasm_f64x2_mul(wasm_f64x2_mul(square, wasm_f64x2_splat(1.0 / (k * (k - 1)))), c));
    }
    s = wasm_f64x2_mul(s, r);
    // The low two bits of n name the quarter turn.
    v128 odd = wasm_i64x2_neg(wasm_v128_and(shifted, wasm_i64x2_const_splat(1)));
    v128 two = wasm_i64x2_const_splat(2), next = wasm_i64x2_add(shifted, wasm_i64x2_const_splat(1));
    *sine = wasm_v128_xor(wasm_v128_bitselect(c, s, odd), wasm_i64x2_shl(wasm_v128_and(shifted, two), 62));
    *cosine = wasm_v128_xor(wasm_v128_bitselect(s, c, odd), wasm_i64x2_shl(wasm_v128_and(next, two), 62));
}
