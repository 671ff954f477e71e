// add, mul, last_rows, expert_mul, expert_add, expert_spread, expert_sum: ops in which no element meets more than a few others.
//   x, y, out: f32 (T, n), any n; out of add and mul may lie on an input. Elements are split over threads (pieces.h).
#include "formats.h"
#include "pieces.h"

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

static void div_span(float* out, const float* x, const float* y, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) store(out + i, wasm_f32x4_div(load(x + i), load(y + i)));
    for (; i < n; i++) out[i] = x[i] / y[i];
}

static void div_one(float* out, const float* x, float y, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) store(out + i, wasm_f32x4_div(load(x + i), splat_f32(y)));
    for (; i < n; i++) out[i] = x[i] / y;
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
void div(const Call* c) { binary(c, div_span, div_one); }

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

// x: (T, n_used * n), experts: i32 (T, n_used), w: packed (n_experts, n)
void expert_add(const Call* c) {
    const Operand *x_at = &c->op->in[0], *chosen = &c->op->in[2];
    const Weight* w = weight(c, &c->op->in[1]);
    const float* x = values(c, x_at);
    const int32_t* experts = (const int32_t*)values(c, chosen);
    float *out = values(c, &c->op->out[0]), *row = row_room(c);
    uint32_t n = w->n, n_left;
    size_t begin, end;
    share_elements(c, x_at, &begin, &end);
    for (uint32_t column; begin < end;) {
        size_t some = within_row(begin, end, n, &column);
        const uint8_t* p = packed(c, w, 0, (uint32_t)experts[begin / n], &n_left);
        if (w->type != F32) dequantize(w->type, p, row, n);
        add_span(out + begin, x + begin, (w->type == F32 ? (const float*)p : row) + column, some);
        begin += some;
    }
}

// x: (T, n), weights: (T, n_used), out: (T, n_used * n)
void expert_spread(const Call* c) {
    const Operand *x_at = &c->op->in[0], *out_at = &c->op->out[0];
    const float *x = values(c, x_at), *weights = values(c, &c->op->in[1]);
    float* out = values(c, out_at);
    uint32_t n = x_at->width, n_used = out_at->width / n;
    size_t begin, end;
    share_elements(c, out_at, &begin, &end);
    for (uint32_t column; begin < end;) {
        size_t some = within_row(begin, end, n, &column), pair = begin / n;
        mul_one(out + begin, x + pair / n_used * n + column, weights[pair], some);
        begin += some;
    }
}

// What an expert gave, times its weight where there are weights.
INLINE v128 weighted(v128 x, const float* weights, uint32_t u) {
    return weights ? wasm_f32x4_mul(x, splat_f32(weights[u])) : x;
}

// x: (T, n_used * n), weights, if any: (T, n_used), out: (T, n); added in the order of the experts
void expert_sum(const Call* c) {
    const Operand *x_at = &c->op->in[0], *weights_at = &c->op->in[1], *out_at = &c->op->out[0];
    uint32_t n = out_at->width, n_used = (uint32_t)c->op->params[0];
    size_t begin, end;
    share_elements(c, out_at, &begin, &end);
    for (uint32_t column; begin < end;) {
        size_t some = within_row(begin, end, n, &column), row = begin / n, i = 0;
        const float* x = values(c, x_at) + row * x_at->width + column;
        const float* weights = weights_at->space == ABSENT ? 0 : values(c, weights_at) + row * n_used;
        float* out = values(c, out_at) + begin;
        for (; i + 4 <= some; i += 4) {
            v128 sum = weighted(load(x + i), weights, 0);
            for (uint32_t u = 1; u < n_used; u++)
                sum = wasm_f32x4_add(sum, weighted(load(x + (size_t)u * n + i), weights, u));
            store(out + i, sum);
        }
        for (; i < some; i++) {
            v128 sum = weighted(splat_f32(x[i]), weights, 0);
            for (uint32_t u = 1; u < n_used; u++)
                sum = wasm_f32x4_add(sum, weighted(splat_f32(x[(size_t)u * n + i]), weights, u));
            out[i] = wasm_f32x4_extract_lane(sum, 0);
        }
        begin += some;
    }
}
