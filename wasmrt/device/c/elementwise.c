// add, mul, swiglu, last_rows, expert_mul, expert_sum: ops in which no element meets more than a few others.
//   x, y, out: f32 (T, n), any n; out may lie on an input, except for the last three. The T * n elements are split over threads
//   in pieces of 64, so one row is split too.
#include "kernels.h"
#include "mathf.h"

enum { PIECE = 64 };

// This thread's share of the elements of an activation.
static void share_elements(const Call* c, const Operand* o, size_t* begin, size_t* end) {
    size_t n = (size_t)n_rows(c, o) * o->width;
    uint32_t first, last;
    share(c, (uint32_t)((n + PIECE - 1) / PIECE), &first, &last);
    *begin = (size_t)first * PIECE;
    *end = (size_t)last * PIECE < n ? (size_t)last * PIECE : n;
}

// How many of the elements from `begin` on lie in one row, and through *column where they begin in it.
static size_t within_row(size_t begin, size_t end, uint32_t width, uint32_t* column) {
    *column = (uint32_t)(begin % width);
    size_t left = width - *column;
    return left < end - begin ? left : end - begin;
}

static void add_span(float* out, const float* x, const float* y, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) store(out + i, wasm_f32x4_add(load(x + i), load(y + i)));
    for (; i < n; i++) out[i] = x[i] + y[i];
}

static void add_one(float* out, const float* x, float y, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) store(out + i, wasm_f32x4_add(load(x + i), splat_f32(y)));
    for (; i < n; i++) out[i] = x[i] + y;
}

static void mul_span(float* out, const float* x, const float* y, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) store(out + i, wasm_f32x4_mul(load(x + i), load(y + i)));
    for (; i < n; i++) out[i] = x[i] * y[i];
}

static void mul_one(float* out, const float* x, float y, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) store(out + i, wasm_f32x4_mul(load(x + i), splat_f32(y)));
    for (; i < n; i++) out[i] = x[i] * y;
}

// y is an activation of x's shape, or a weight: one row for all, or one number.
static void binary(
    const Call* c, void (*span)(float*, const float*, const float*, size_t), void (*one)(float*, const float*, float, size_t)
) {
    const Operand *x_at = &c->op->in[0], *y_at = &c->op->in[1];
    const float* x = values(c, x_at);
    float* out = values(c, &c->op->out[0]);
    size_t begin, end;
    share_elements(c, x_at, &begin, &end);
    if (y_at->space != WEIGHT) {
        span(out + begin, x + begin, values(c, y_at) + begin, end - begin);
        return;
    }
    const float* y = row_f32(c, y_at);
    if (weight(c, y_at)->n == 1) {
        one(out + begin, x + begin, *y, end - begin);
        return;
    }
    for (uint32_t column; begin < end;) {
        size_t n = within_row(begin, end, x_at->width, &column);
        span(out + begin, x + begin, y + column, n);
        begin += n;
    }
}

void add(const Call* c) { binary(c, add_span, add_one); }
void mul(const Call* c) { binary(c, mul_span, mul_one); }

// gate / (1 + exp(-gate)) * up
static inline v128 swiglu_4(v128 gate, v128 up) {
    v128 divisor = wasm_f32x4_add(splat_f32(1.0f), exp_f32x4(wasm_f32x4_neg(gate)));
    return wasm_f32x4_mul(wasm_f32x4_div(gate, divisor), up);
}

void swiglu(const Call* c) {
    const Operand* in = c->op->in;
    const float *gate = values(c, &in[0]), *up = values(c, &in[1]);
    float* out = values(c, &c->op->out[0]);
    size_t i, end;
    share_elements(c, &in[0], &i, &end);
    for (; i + 4 <= end; i += 4) store(out + i, swiglu_4(load(gate + i), load(up + i)));
    for (; i < end; i++) out[i] = wasm_f32x4_extract_lane(swiglu_4(splat_f32(gate[i]), splat_f32(up[i])), 0);
}

void last_rows(const Call* c) {
    const Operand *x = &c->op->in[0], *out = &c->op->out[0];
    const float* from = values(c, x) + (size_t)(n_rows(c, x) - n_rows(c, out)) * x->width;
    size_t begin, end;
    share_elements(c, out, &begin, &end);
    __builtin_memcpy(values(c, out) + begin, from + begin, (end - begin) * sizeof(float));
}

// x: (T, n_used * n), experts: i32 (T, n_used), w: (n_experts)
void expert_mul(const Call* c) {
    const Operand *x_at = &c->op->in[0], *chosen = &c->op->in[2];
    const float *x = values(c, x_at), *w = row_f32(c, &c->op->in[1]);
    const int32_t* experts = (const int32_t*)values(c, chosen);
    float* out = values(c, &c->op->out[0]);
    uint32_t n = x_at->width / chosen->width;  // what one expert gave; row e of these is experts[e]'s
    size_t begin, end;
    share_elements(c, x_at, &begin, &end);
    for (uint32_t column; begin < end;) {
        size_t some = within_row(begin, end, n, &column);
        mul_one(out + begin, x + begin, w[experts[begin / n]], some);
        begin += some;
    }
}

// x: (T, n_used * n), weights: (T, n_used), out: (T, n); added in the order of the experts
void expert_sum(const Call* c) {
    const Operand *x_at = &c->op->in[0], *weights_at = &c->op->in[1], *out_at = &c->op->out[0];
    uint32_t n = out_at->width, n_used = weights_at->width;
    size_t begin, end;
    share_elements(c, out_at, &begin, &end);
    for (uint32_t column; begin < end;) {
        size_t some = within_row(begin, end, n, &column), row = begin / n, i = 0;
        const float* x = values(c, x_at) + row * x_at->width + column;
        const float* weights = values(c, weights_at) + row * n_used;
        float* out = values(c, out_at) + begin;
        for (; i + 4 <= some; i += 4) {
            v128 sum = wasm_f32x4_mul(load(x + i), splat_f32(weights[0]));
            for (uint32_t u = 1; u < n_used; u++)
                sum = wasm_f32x4_add(sum, wasm_f32x4_mul(load(x + (size_t)u * n + i), splat_f32(weights[u])));
            store(out + i, sum);
        }
        for (; i < some; i++) {
            out[i] = x[i] * weights[0];
            for (uint32_t u = 1; u < n_used; u++) out[i] += x[(size_t)u * n + i] * weights[u];
        }
        begin += some;
    }
}
