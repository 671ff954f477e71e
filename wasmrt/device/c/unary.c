// unary: a function of each element, by its number in program/ops.py FUNCTIONS; some take numbers a to d
// geglu: gelu(gate) * up
// swiglu: gate / (1 + exp(-gate)) * up
// swiglu_oai: the same of gate, at most limit, with alpha * gate in exp; times up + 1, up from -limit to limit
//   x, gate, up, out: f32 (T, n), any n; out may lie on an input. Elements are split over threads (pieces.h).
//   Within 1e-6 of themselves, small results too; NaN stays NaN.
#include "pieces.h"
#include "mathf.h"

enum {
    SCALE, SOFTCAP, CLAMP, GELU, GELU_ERF, GELU_QUICK, SILU, RELU, RELU2, SIGMOID, SOFTPLUS, TANH, EXP, XIELU,
};

typedef struct {
    v128 a, b, c, d;
} Numbers;

// x / (1 + exp(-y)): x times the sigmoid of y.
INLINE v128 gated(v128 x, v128 y) {
    return wasm_f32x4_div(x, wasm_f32x4_add(splat_f32(1.0f), exp_f32x4(wasm_f32x4_neg(y))));
}

// x/2 (1 + tanh(u)) = x * sigmoid(2 u), u = sqrt(2/pi) (x + 0.044715 x^3): the second form keeps the digits of small results.
INLINE v128 gelu(v128 x) {
    v128 cubic = wasm_f32x4_add(splat_f32(1.0f), wasm_f32x4_mul(splat_f32(0.044715f), wasm_f32x4_mul(x, x)));
    return gated(x, wasm_f32x4_mul(wasm_f32x4_mul(splat_f32(2 * 0.7978845608f), x), cubic));
}

// x/2 (1 + erf(x / sqrt(2))) = x/2 erfc(-x / sqrt(2))
INLINE v128 gelu_erf(v128 x) {
    v128 far = erfc_f32x4(wasm_f32x4_mul(wasm_f32x4_abs(x), splat_f32(0.70710678f)));
    far = wasm_v128_bitselect(wasm_f32x4_sub(splat_f32(2.0f), far), far, wasm_f32x4_gt(x, zero()));
    return wasm_f32x4_mul(wasm_f32x4_mul(splat_f32(0.5f), x), far);
}

// a: alpha_n, b: alpha_p, c: beta, d: eps
INLINE v128 xielu(v128 x, const Numbers* n) {
    v128 low = wasm_f32x4_pmin(x, n->d);
    v128 below = wasm_f32x4_mul(n->a, wasm_f32x4_sub(expm1_f32x4(low), x));
    v128 above = wasm_f32x4_mul(wasm_f32x4_mul(n->b, x), x);
    return wasm_f32x4_add(wasm_v128_bitselect(above, below, wasm_f32x4_gt(x, zero())), wasm_f32x4_mul(n->c, x));
}

INLINE v128 apply(const int function, v128 x, const Numbers* n) {
    v128 r = wasm_f32x4_pmax(x, zero());
    switch (function) {
        case SCALE: return wasm_f32x4_mul(x, n->a);
        case SOFTCAP: return wasm_f32x4_mul(n->a, tanh_f32x4(wasm_f32x4_div(x, n->a)));
        case CLAMP: return wasm_f32x4_pmin(wasm_f32x4_pmax(x, n->a), n->b);
        case GELU: return gelu(x);
        case GELU_ERF: return gelu_erf(x);
        case GELU_QUICK: return gated(x, wasm_f32x4_mul(splat_f32(1.702f), x));
        case SILU: return gated(x, x);
        case RELU: return r;
        case RELU2: return wasm_f32x4_mul(r, r);
        case SIGMOID: return gated(splat_f32(1.0f), x);
        case SOFTPLUS: return softplus_f32x4(x);
        case TANH: return tanh_f32x4(x);
        case EXP: return exp_f32x4(x);
        default: return xielu(x, n);
    }
}

INLINE void apply_all(const int function, float* out, const float* x, size_t i, size_t end, const Numbers* n) {
    for (; i + 4 <= end; i += 4) store(out + i, apply(function, load(x + i), n));
    for (; i < end; i++) out[i] = wasm_f32x4_extract_lane(apply(function, splat_f32(x[i]), n), 0);
}

void unary(const Call* c) {
    const double* p = c->op->params;
    const Numbers n = {splat_f32((float)p[1]), splat_f32((float)p[2]), splat_f32((float)p[3]), splat_f32((float)p[4])};
    const float* x = values(c, &c->op->in[0]);
    float* out = values(c, &c->op->out[0]);
    size_t begin, end;
    share_elements(c, &c->op->in[0], &begin, &end);
    switch ((int)p[0]) {
#define CASE(F) case F: apply_all(F, out, x, begin, end, &n); break;
        CASE(SCALE) CASE(SOFTCAP) CASE(CLAMP) CASE(GELU) CASE(GELU_ERF) CASE(GELU_QUICK) CASE(SILU) CASE(RELU) CASE(RELU2)
        CASE(SIGMOID) CASE(SOFTPLUS) CASE(TANH) CASE(EXP)
        default: apply_all(XIELU, out, x, begin, end, &n);
    }
}

enum { SWIGLU, GEGLU, SWIGLU_OAI };

INLINE v128 activate(const int kind, v128 gate, v128 up, const Numbers* n) {
    if (kind == SWIGLU) return wasm_f32x4_mul(gated(gate, gate), up);
    if (kind == GEGLU) return wasm_f32x4_mul(gelu(gate), up);
    gate = wasm_f32x4_pmin(gate, n->b);
    up = wasm_f32x4_pmax(wasm_f32x4_pmin(up, n->b), wasm_f32x4_neg(n->b));
    return wasm_f32x4_mul(gated(gate, wasm_f32x4_mul(n->a, gate)), wasm_f32x4_add(up, splat_f32(1.0f)));
}

INLINE void activate_all(const int kind, const Call* c) {
    const Operand* in = c->op->in;
    const Numbers n = {.a = splat_f32((float)c->op->params[0]), .b = splat_f32((float)c->op->params[1])};
    const float *gate = values(c, &in[0]), *up = values(c, &in[1]);
    float* out = values(c, &c->op->out[0]);
    size_t i, end;
    share_elements(c, &in[0], &i, &end);
    for (; i + 4 <= end; i += 4) store(out + i, activate(kind, load(gate + i), load(up + i), &n));
    for (; i < end; i++)
        out[i] = wasm_f32x4_extract_lane(activate(kind, splat_f32(gate[i]), splat_f32(up[i]), &n), 0);
}

void swiglu(const Call* c) { activate_all(SWIGLU, c); }
void geglu(const Call* c) { activate_all(GEGLU, c); }
void swiglu_oai(const Call* c) { activate_all(SWIGLU_OAI, c); }
