// rms_norm: y[t, i] = x[t, i] * w[i] / sqrt(mean(x[t, :]^2) + eps)
// layer_norm: the same of x[t, :] - mean(x[t, :]), plus b[i] where there is a b
//   x, y: f32 (T, n), w, b: (n), any n and any format. Rows are split over threads.
//   Sums are taken in four lanes, then the rest one by one: a fixed order.
#include "kernels.h"

static void norm_row(float* y, const float* x, const float* w, uint32_t n, float eps) {
    v128 squares = zero();
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) squares = wasm_f32x4_add(squares, wasm_f32x4_mul(load(x + i), load(x + i)));
    float sum = sum_f32(squares);
    for (; i < n; i++) sum += x[i] * x[i];
    float scale = 1.0f / __builtin_sqrtf(sum / (float)n + eps);
    for (i = 0; i + 4 <= n; i += 4)
        store(y + i, wasm_f32x4_mul(wasm_f32x4_mul(load(x + i), splat_f32(scale)), load(w + i)));
    for (; i < n; i++) y[i] = x[i] * scale * w[i];
}

void rms_norm(const Call* c) {
    const Operand *x = &c->op->in[0], *out = &c->op->out[0];
    const float* w = row_f32(c, &c->op->in[1]);
    uint32_t n = x->width, begin, end;
    share(c, n_rows(c, x), &begin, &end);
    for (uint32_t t = begin; t < end; t++)
        norm_row(values(c, out) + (size_t)t * n, values(c, x) + (size_t)t * n, w, n, (float)c->op->params[0]);
}

static void center_row(float* y, const float* x, const float* w, uint32_t n, float eps) {
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
    for (i = 0; i < n; i++) y[i] = (x[i] - mean) * scale * w[i];
}

void layer_norm(const Call* c) {
    const Operand *x = &c->op->in[0], *b_at = &c->op->in[2], *out = &c->op->out[0];
    uint32_t n = x->width, begin, end;
    share(c, n_rows(c, x), &begin, &end);
    const float* w = row_f32(c, &c->op->in[1]);
    for (uint32_t t = begin; t < end; t++)
        center_row(values(c, out) + (size_t)t * n, values(c, x) + (size_t)t * n, w, n, (float)c->op->params[0]);
    if (b_at->space == ABSENT) return;
    const float* b = row_f32(c, b_at);  // now, since it may take the place of w
    for (uint32_t t = begin; t < end; t++) {
        float* y = values(c, out) + (size_t)t * n;
        for (uint32_t i = 0; i < n; i++) y[i] += b[i];
    }
}
