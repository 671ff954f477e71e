// route: the n_used likeliest experts of each token, best first (ties: lower id), and what each weighs.
//   logits: f32 (T, n_experts), bias, if any: n_experts; experts: i32 (T, n_used), weights: f32 (T, n_used).
//   An expert is chosen by its score, plus its bias, of the groups whose two best add to most. Rows are split over threads.
//   Sums of four lanes, then the rest one by one: a fixed order. A thread's scratch: the bias if it is packed, n scores, and
//   n_groups sums.
#include "kernels.h"
#include "mathf.h"

enum { SOFTMAX, SIGMOID, CHOSEN };  // program/ops.py SCORES
#define LEAST_TOTAL 0x1p-14f        // device/reference.py

typedef struct {
    uint32_t n, n_used, score, normalize, n_groups, n_groups_used;
    float scale;
    const float* bias;
    float *scores, *groups;  // scratch
} Route;

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

static float largest_of(const float* x, uint32_t n) {
    float largest = x[0];
    for (uint32_t i = 1; i < n; i++) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

static void soften(float* y, const float* x, uint32_t n) {
    float largest = largest_of(x, n);
    v128 sums = zero();
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        v128 e = exp_f32x4(wasm_f32x4_sub(load(x + i), splat_f32(largest)));
        store(y + i, e);
        sums = wasm_f32x4_add(sums, e);
    }
    float sum = sum_f32(sums);
    for (; i < n; i++) sum += y[i] = exp_f32(x[i] - largest);
    for (i = 0; i < n; i++) y[i] /= sum;
}

static void score(const Route* r, const float* logits) {
    if (r->score == SOFTMAX) soften(r->scores, logits, r->n);
    else if (r->score == SIGMOID) for (uint32_t i = 0; i < r->n; i++) r->scores[i] = 1 / (1 + exp_f32(-logits[i]));
    else __builtin_memcpy(r->scores, logits, r->n * sizeof(float));
}

static inline float wanted(const Route* r, uint32_t i) { return r->bias ? r->scores[i] + r->bias[i] : r->scores[i]; }

// Of each group the sum of its two best.
static void add_best(const Route* r) {
    uint32_t per_group = r->n / r->n_groups;
    for (uint32_t g = 0; g < r->n_groups; g++) {
        float first = wanted(r, g * per_group), second = -__builtin_inff();
        for (uint32_t i = 1; i < per_group; i++) {
            float x = wanted(r, g * per_group + i);
            if (x > first) second = first, first = x;
            else if (x > second) second = x;
        }
        r->groups[g] = per_group > 1 ? first + second : first;
    }
}

// Whether a group takes part: of groups that are alike the first do. With NaN among them more may, never fewer.
static int takes_part(const Route* r, uint32_t group) {
    uint32_t better = 0;
    for (uint32_t g = 0; g < r->n_groups; g++)
        better += r->groups[g] > r->groups[group] || (g < group && r->groups[g] == r->groups[group]);
    return better < r->n_groups_used;
}

static void route_row(const Route* r, const float* logits, int32_t* experts, float* weights) {
    uint32_t n_kept = 0, per_group = r->n / r->n_groups;
    float total = 0;
    score(r, logits);
    if (r->n_groups > 1) add_best(r);
    for (uint32_t g = 0; g < r->n_groups; g++) {
        if (r->n_groups > 1 && !takes_part(r, g)) continue;
        for (uint32_t i = g * per_group; i < (g + 1) * per_group; i++)
            keep_best(wanted(r, i), i, r->n_used, &n_kept, experts, weights);
    }
    for (uint32_t i = 0; i < r->n_used; i++) weights[i] = r->scores[experts[i]];
    if (r->score == CHOSEN) soften(weights, weights, r->n_used);
    for (uint32_t i = 0; i < r->n_used; i++) total += weights[i];
    float divisor = !r->normalize ? 1 : total < LEAST_TOTAL ? LEAST_TOTAL : total;
    for (uint32_t i = 0; i < r->n_used; i++) weights[i] = weights[i] / divisor * r->scale;
}

void route(const Call* c) {
    const Operand *logits = &c->op->in[0], *bias = &c->op->in[1], *experts = &c->op->out[0], *weights = &c->op->out[1];
    const double* p = c->op->params;
    uint32_t n = logits->width, n_used = experts->width, begin, end;
    float* room = row_room(c);
    Route r = {
        .n = n,
        .n_used = n_used,
        .score = (uint32_t)p[1],
        .normalize = p[2] != 0,
        .scale = (float)p[3],
        .n_groups = (uint32_t)p[4],
        .n_groups_used = (uint32_t)p[5],
        .bias = bias->space == ABSENT ? 0 : row_f32(c, bias),
    };
    r.scores = r.bias == room ? room + n : room;
    r.groups = r.scores + n;
    share(c, n_rows(c, logits), &begin, &end);
    for (uint32_t t = begin; t < end; t++) {
        size_t row = (size_t)t * n_used;
        route_row(&r, values(c, logits) + (size_t)t * n, (int32_t*)values(c, experts) + row, values(c, weights) + row);
    }
}
