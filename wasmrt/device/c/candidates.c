// candidates: of one row of logits the k best and the weight of all others, which is what a sampler needs; all_finite; and
// read_memory, by which the host learns how fast memory is. Called by the host on one thread, between runs.
#include "kernels.h"
#include "mathf.h"

#define EXPORT(name) __attribute__((export_name(name)))

// n is no size_t: a host need not know which of the numbers that it passes are 64 bits wide.
EXPORT("all_finite") uint32_t all_finite(const float* x, uint32_t n) {
    const v128 exponent = wasm_i32x4_const_splat(0x7f800000);
    v128 bad = zero();
    uint32_t i = 0;
    for (; n - i >= 4; i += 4) bad = wasm_v128_or(bad, wasm_i32x4_eq(wasm_v128_and(load(x + i), exponent), exponent));
    for (; i < n; i++) bad = wasm_v128_or(bad, wasm_i32x4_eq(wasm_v128_and(splat_f32(x[i]), exponent), exponent));
    return !wasm_v128_any_true(bad);
}

// The k best so far as a binary heap whose root is the worst of them; of equal logits the higher id is worse.

typedef struct {
    int32_t* ids;
    float* logits;
    uint32_t n;
} Heap;

static inline int worse(const Heap* h, uint32_t i, uint32_t j) {
    return h->logits[i] < h->logits[j] || (h->logits[i] == h->logits[j] && h->ids[i] > h->ids[j]);
}

static inline void swap(Heap* h, uint32_t i, uint32_t j) {
    float logit = h->logits[i];
    int32_t id = h->ids[i];
    h->logits[i] = h->logits[j], h->ids[i] = h->ids[j];
    h->logits[j] = logit, h->ids[j] = id;
}

static void sink(Heap* h, uint32_t i) {
    for (uint32_t child; (child = 2 * i + 1) < h->n; i = child) {
        if (child + 1 < h->n && worse(h, child + 1, child)) child++;
        if (!worse(h, child, i)) return;
        swap(h, i, child);
    }
}

static void offer(Heap* h, float logit, uint32_t id) {
    if (!(logit > h->logits[0])) return;  // ids come in order, so an equal one is worse
    h->logits[0] = logit, h->ids[0] = (int32_t)id;
    sink(h, 0);
}

static void find_best(const float* logits, uint32_t n, uint32_t k, int32_t* ids, float* best) {
    Heap h = {ids, best, k};
    uint32_t i = 0;
    for (; i < k; i++) ids[i] = (int32_t)i, best[i] = logits[i];
    for (i = k / 2; i-- > 0;) sink(&h, i);
    for (i = k; i + 16 <= n; i += 16) {
        v128 low = wasm_f32x4_pmax(load(logits + i), load(logits + i + 4));
        v128 high = wasm_f32x4_pmax(load(logits + i + 8), load(logits + i + 12));
        v128 largest = wasm_f32x4_pmax(low, high);
        if (!wasm_v128_any_true(wasm_f32x4_gt(largest, splat_f32(best[0])))) continue;
        for (uint32_t j = i; j < i + 16; j++) offer(&h, logits[j], j);
    }
    for (; i < n; i++) offer(&h, logits[i], i);
    // The worst goes to the end, again and again: best first.
    while (h.n > 1) {
        swap(&h, 0, --h.n);
        sink(&h, 0);
    }
}

static float find_largest(const float* x, uint32_t n) {
    v128 largest = splat_f32(-__builtin_inff());
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) largest = wasm_f32x4_pmax(largest, load(x + i));
    for (; i < n; i++) largest = wasm_f32x4_pmax(largest, splat_f32(x[i]));
    return max_f32(largest);
}

// log(sum(exp(x / temperature))) where -infinity weighs nothing. exp in f32, sums in double.
static double log_sum_exp(const float* x, uint32_t n, double temperature) {
    float largest = find_largest(x, n);
    if (largest == -__builtin_inff()) return -__builtin_inf();
    v128 shift = splat_f32(largest), divisor = splat_f32(temperature < 1e-30 ? 1e-30f : (float)temperature);
    v128 low = zero(), high = zero(), e;
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        e = exp_f32x4(wasm_f32x4_div(wasm_f32x4_sub(load(x + i), shift), divisor));
        low = wasm_f64x2_add(low, wasm_f64x2_promote_low_f32x4(e));
        high = wasm_f64x2_add(high, wasm_f64x2_promote_low_f32x4(wasm_i32x4_shuffle(e, e, 2, 3, 0, 1)));
    }
    v128 sums = wasm_f64x2_add(low, high);
    double sum = wasm_f64x2_extract_lane(sums, 0) + wasm_f64x2_extract_lane(sums, 1);
    for (; i < n; i++) sum += exp_f32((x[i] - largest) / wasm_f32x4_extract_lane(divisor, 0));
    return (double)largest / temperature + log_f64(sum);
}

// What is asked and answered; device/cpu.py writes it. One struct: each argument of a call costs Python some microseconds.
typedef struct {
    double rest, rest_at;                           // the answer beside ids and best
    double penalty, temperature;
    uint64_t logits, ids, best, recent, saved;      // f32 (n), i32 (k), f32 (k), i32 (n_recent), f32 (n_recent) of scratch
    uint32_t n, k, n_recent, unused;
} Ask;
_Static_assert(sizeof(Ask) == 88, "device/cpu.py ASK");

// Finds the k best of n logits, best first (ties: the lower id): ids, and best, their logits.
//   The n_recent different ids `recent` are held at a penalty: their logits become l / penalty, or l * penalty below 0.
//   rest: log(sum(exp(l))) over all others, rest_at the same of l / temperature; -infinity where there are none, rest_at also
//   at temperature 0. Returns 1, and nothing else, if a logit is NaN or infinite.
//   The logits are written to, and are as before at the end. 1 <= k <= n.
EXPORT("candidates") uint32_t candidates(Ask* a) {
    float *logits = at(a->logits), *best = at(a->best), *saved = at(a->saved);
    int32_t *ids = at(a->ids), *recent = at(a->recent);
    if (!all_finite(logits, a->n)) return 1;
    for (uint32_t i = 0; i < a->n_recent; i++) {
        float logit = saved[i] = logits[recent[i]];
        logits[recent[i]] = (float)(logit > 0 ? logit / a->penalty : logit * a->penalty);
    }
    find_best(logits, a->n, a->k, ids, best);
    for (uint32_t i = 0; i < a->k; i++) logits[ids[i]] = -__builtin_inff();
    a->rest = log_sum_exp(logits, a->n, 1);
    a->rest_at = a->temperature == 1  ? a->rest
                 : a->temperature > 0 ? log_sum_exp(logits, a->n, a->temperature)
                                      : -__builtin_inf();
    for (uint32_t i = 0; i < a->k; i++) logits[ids[i]] = best[i];
    for (uint32_t i = 0; i < a->n_recent; i++) logits[recent[i]] = saved[i];
    return 0;
}

// Reads every byte; what comes back depends on all of them, so that no compiler leaves the reading out.
EXPORT("read_memory") uint64_t read_memory(const uint8_t* p, size_t n) {
    v128 a = zero(), b = zero(), c = zero(), d = zero();
    for (size_t i = 0; i + 64 <= n; i += 64) {
        a = wasm_v128_or(a, load(p + i));
        b = wasm_v128_or(b, load(p + i + 16));
        c = wasm_v128_or(c, load(p + i + 32));
        d = wasm_v128_or(d, load(p + i + 48));
    }
    v128 all = wasm_v128_or(wasm_v128_or(a, b), wasm_v128_or(c, d));
    return (uint64_t)(wasm_i64x2_extract_lane(all, 0) | wasm_i64x2_extract_lane(all, 1));
}
