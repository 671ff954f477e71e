// route: the n_used likeliest experts of each token, best first (ties: lower id), and their probabilities, made to sum to 1.
//   logits: f32 (T, n_experts); experts: i32 (T, n_used), weights: f32 (T, n_used). Rows are split over threads.
//   Sums of four lanes, then the rest one by one: a fixed order.
#include "kernels.h"
#include "mathf.h"

// The n_used largest of n numbers, kept sorted as they come: `weights` and `experts` hold the first *n_kept.
static inline void keep_best(float p, uint32_t expert, uint32_t n_used, uint32_t* n_kept, int32_t* experts, float* weights) {
    uint32_t at = *n_kept;
    if (at < n_used)
        ++*n_kept;
    else if (!(p > weights[--at]))
        return;
    for (; at > 0 && p > weights[at - 1]; at--) weights[at] = weights[at - 1], experts[at] = experts[at - 1];
    weights[at] = p, experts[at] = (int32_t)expert;
}

static void route_row(const float* logits, uint32_t n, uint32_t n_used, int32_t* experts, float* weights) {
    float largest = logits[0], sum, total = 0;
    for (uint32_t i = 1; i < n; i++) largest = logits[i] > largest ? logits[i] : largest;
    v128 sums = zero();
    uint32_t i = 0, n_kept = 0;
    for (; i + 4 <= n; i += 4) sums = wasm_f32x4_add(sums, exp_f32x4(wasm_f32x4_sub(load(logits + i), splat_f32(largest))));
    sum = sum_f32(sums);
    for (; i < n; i++) sum += exp_f32(logits[i] - largest);
    for (i = 0; i < n; i++) keep_best(exp_f32(logits[i] - largest) / sum, i, n_used, &n_kept, experts, weights);
    for (i = 0; i < n_used; i++) total += weights[i];
    for (i = 0; i < n_used; i++) weights[i] /= total;
}

void route(const Call* c) {
    const Operand *logits = &c->op->in[0], *experts = &c->op->out[0], *weights = &c->op->out[1];
    uint32_t n = logits->width, n_used = experts->width, begin, end;
    share(c, n_rows(c, logits), &begin, &end);
    for (uint32_t t = begin; t < end; t++) {
        size_t row = (size_t)t * n_used;
        route_row(values(c, logits) + (size_t)t * n, n, n_used, (int32_t*)values(c, experts) + row, values(c, weights) + row);
    }
}
