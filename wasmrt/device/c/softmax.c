// softmax: y[t, i] = exp(x[t, i] - max(x[t, :])) / sum over i of the same
//   x, y: f32 (T, n), any n. Rows are split over threads.
//   Sums are taken in four lanes, then the rest one by one: a fixed order.
#include "kernels.h"
#include "mathf.h"

static void softmax_row(float* y, const float* x, uint32_t n) {
    float largest = x[0];
    for (uint32_t i = 1; i < n; i++) largest = x[i] > largest ? x[i] : largest;
    v128 sums = zero();
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        v128 e = exp_f32x4(wasm_f32x4_sub(load(x + i), splat_f32(largest)));
        sums = wasm_f32x4_add(sums, e);
        store(y + i, e);
    }
    float sum = sum_f32(sums);
    for (; i < n; i++) sum += y[i] = exp_f32(x[i] - largest);
    for (i = 0; i < n; i++) y[i] /= sum;
}

void softmax(const Call* c) {
    const Operand *x = &c->op->in[0], *out = &c->op->out[0];
    uint32_t n = x->width, begin, end;
    share(c, n_rows(c, x), &begin, &end);
    for (uint32_t t = begin; t < end; t++)
        softmax_row(values(c, out) + (size_t)t * n, values(c, x) + (size_t)t * n, n);
}
