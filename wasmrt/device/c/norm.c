// rms_norm: y = x * w / sqrt(mean(x^2) + eps), of each group of columns by itself
// layer_norm: the same of x - mean(x), plus b
//   x, y: f32 (T, n), any n; w, b, where there are any: of a group's width, or of a row's, in any format. Groups are split over
//   threads. Sums are taken in four lanes, then the rest one by one: a fixed order.
#include "kernels.h"

static void norm_group(float* y, const float* x, const float* w, uint32_t n, float eps) {
    v128 squares = zero();
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) squares = wasm_f32x4_add(squares, wasm_f32x4_mul(load(x + i), load(x + i)));
    float sum = sum_f32(squares);
    for (; i < n; i++) sum += x[i] * x[i];
    float scale = 1.0f / __builtin_sqrtf(sum / (float)n + eps);
    for (i = 0; i + 4 <= n; i += 4) {
        v128 scaled = wasm_f32x4_mul(load(x + i), splat_f32(scale));
        store(y + i, w ? wasm_f32x4_mul(scaled, load(w + i)) : scaled);
    }
    for (; i < n; i++) y[i] = w ? x[i] * scale * w[i] : x[i] * scale;
}

static void center_group(float* y, const float* x, const float* w, uint32_t n, float eps) {
    v128 sums = zero(), squares = zero();
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) sums = wasm_f32x4_add(sums, load(x + i));
    float mean = sum_f32(sums);
    for (; i < n; i++) mean += x[i];
    mean /= (float)n;
    for (i = 0; i + 4 <= n; i += 4) {
        v128 d = wasm_f32x4_sub(load(x + i), splat_f32(mean));
        squares = wasm_f32x4_add(squares, wasm_f32x4_mul(d, d));
    }
    float square = sum_f32(squares);
    for (; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / __builtin_sqrtf(square / (float)n + eps);
    for (i = 0; i < n; i++) y[i] = w ? (x[i] - mean) * scale * w[i] : (x[i] - mean) * scale;
}

// A weight's numbers for group i of all rows' groups; 0 if there is no weight.
static inline const float* of_group(const Call* c, const Operand* o, const float* w, uint32_t group, uint32_t i) {
    return w && n_numbers(weight(c, o)) > group ? w + (size_t)(i % (c->op->in[0].width / group)) * group : w;
}

static const float* small_or_none(const Call* c, const Operand* o) { return o->space == ABSENT ? 0 : row_f32(c, o); }

typedef void Norm(float* y, const float* x, const float* w, uint32_t n, float eps);

static void norm(const Call* c, Norm* normalize) {
    const Operand *x = &c->op->in[0], *w_at = &c->op->in[1], *out = &c->op->out[0];
    const float* w = small_or_none(c, w_at);
    uint32_t n = (uint32_t)c->op->params[1], begin, end;
    share(c, n_rows(c, x) * (x->width / n), &begin, &end);
    for (uint32_t i = begin; i < end; i++) {
        size_t at = (size_t)i * n;
        normalize(values(c, out) + at, values(c, x) + at, of_group(c, w_at, w, n, i), n, (float)c->op->params[0]);
    }
}

void rms_norm(const Call* c) { norm(c, norm_group); }

void layer_norm(const Call* c) {
    const Operand *x = &c->op->in[0], *b_at = &c->op->in[2];
    norm(c, center_group);
    const float* b = small_or_none(c, b_at);  // now, since it may take the place of w
    uint32_t n = (uint32_t)c->op->params[1], begin, end;
    share(c, n_rows(c, x) * (x->width / n), &begin, &end);
    for (uint32_t i = begin; b && i < end; i++) {
        float* y = values(c, &c->op->out[0]) + (size_t)i * n;
        const float* of = of_group(c, b_at, b, n, i);
        for (uint32_t k = 0; k < n; k++) y[k] += of[k];
    }
}
