// ssm_scan: s = s * exp(dt' a) + (dt' x) b, y = s . c + d x, dt' = softplus(dt), token by token
//   x, y: f32 (T, n_heads * p), dt: (T, n_heads), b, c: (T, n_groups * n), a: (n_heads, 1 or n), d, if any: n_heads numbers,
//   state: f32 (n_heads, p, n). Channels, p a head, are split over threads. s . c is summed in four lanes, then the rest.
// delta_net: u = beta (v - exp(g) s^T k), s = exp(g) s + k u^T, y = scale * s^T q, token by token and head by head
//   q, k: f32 (T, n_k_heads * n), v, y: (T, n_heads * m), g, beta: (T, n_heads), state: f32 (n_heads, n, m). Columns of a
//   head's state do without each other: some of them are a piece of work. Sums are taken in the order of n.
//   Both: a pass of T tokens does what T passes of one do, in the same order.
#include "kernels.h"
#include "mathf.h"

// One channel's state moved on by one token; returns s . c. a: n numbers or, if `whole`, exp(dt a) of all of them.
INLINE float move_on(float* s, const float* a, float dt, float x, const float* b, const float* c, uint32_t n, const int whole) {
    v128 sums = zero(), input = splat_f32(x), step = splat_f32(dt), decay = splat_f32(*a);
    uint32_t j = 0;
    for (; j + 4 <= n; j += 4) {
        if (!whole) decay = exp_f32x4(wasm_f32x4_mul(step, load(a + j)));
        v128 moved = wasm_f32x4_add(wasm_f32x4_mul(load(s + j), decay), wasm_f32x4_mul(input, load(b + j)));
        store(s + j, moved);
        sums = wasm_f32x4_add(sums, wasm_f32x4_mul(moved, load(c + j)));
    }
    float sum = sum_f32(sums);
    for (; j < n; j++) {
        s[j] = s[j] * (whole ? *a : exp_f32(dt * a[j])) + x * b[j];
        sum += s[j] * c[j];
    }
    return sum;
}

enum { FEW = 8, HEADS = 16 };  // heads of fewer channels than FEW are taken HEADS at once, since softplus takes four

// softplus of n numbers, at most HEADS.
static void steps(float* out, const float* dt, uint32_t n) {
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) store(out + i, softplus_f32x4(load(dt + i)));
    for (; i < n; i++) out[i] = wasm_f32x4_extract_lane(softplus_f32x4(splat_f32(dt[i])), 0);
}

void ssm_scan(const Call* call) {
    const Operand *in = call->op->in, *x_at = &in[0], *b_at = &in[2], *d_at = &in[5];
    const Weight* a_weight = weight(call, &in[4]);
    uint32_t n_heads = (uint32_t)call->op->params[0], n_groups = (uint32_t)call->op->params[1], n_tokens = n_rows(call, x_at);
    uint32_t p = x_at->width / n_heads, n = b_at->width / n_groups, n_a = a_weight->n, begin, end;
    const float *x = values(call, x_at), *dt = values(call, &in[1]), *b = values(call, b_at), *c = values(call, &in[3]);
    float *y = values(call, &call->op->out[0]), *s = state(call, &call->op->out[1]), *room = row_room(call), step[HEADS];
    const float* a = small_f32(call, &in[4], room);
    const float* d = d_at->space == ABSENT ? 0 : small_f32(call, d_at, a == room ? room + n_numbers(a_weight) : room);
    share(call, x_at->width, &begin, &end);
    uint32_t at_once = p < FEW ? HEADS : 1;
    for (uint32_t h0 = begin / p, h1; begin < end && h0 * p < end; h0 = h1) {
        if (__atomic_load_n(&call->team->control, __ATOMIC_RELAXED) != RUN) return;
        h1 = h0 + at_once < n_heads ? h0 + at_once : n_heads;
        for (uint32_t t = 0; t < n_tokens; t++) {
            steps(step, dt + (size_t)t * n_heads + h0, h1 - h0);
            for (uint32_t h = h0; h < h1; h++) {
                size_t group = (size_t)t * b_at->width + (size_t)(h / (n_heads / n_groups)) * n, row = (size_t)t * x_at->width;
                const float *of_head = a + (size_t)h * n_a, of_step = step[h - h0];
                float decay = n_a == 1 ? exp_f32(of_step * *of_head) : 0;
                uint32_t first = h * p > begin ? h * p : begin, last = (h + 1) * p < end ? (h + 1) * p : end;
                for (uint32_t i = first; i < last; i++) {
                    float xi = x[row + i], *si = s + (size_t)i * n;
                    float sum = n_a == 1 ? move_on(si, &decay, 0, xi * of_step, b + group, c + group, n, 1)
                                         : move_on(si, of_head, of_step, xi * of_step, b + group, c + group, n, 0);
                    y[row + i] = d ? sum + xi * d[h] : sum;
                }
            }
        }
    }
}

enum { AT_ONCE = 16 };  // columns of a piece

// Some columns of a head's state, n rows at a distance of m, moved on by one token. v, y: of these columns.
INLINE void delta_columns(
    float* s, size_t m, uint32_t n, const float* q, const float* k, const float* v, float* y, float decay, float beta,
    float scale, const int n_vectors
) {
    v128 told[4], sum[4];
#pragma clang loop unroll(full)
    for (int i = 0; i < n_vectors; i++) told[i] = sum[i] = zero();
    for (uint32_t r = 0; r < n; r++) {
        v128 kr = wasm_v128_load32_splat(k + r);
#pragma clang loop unroll(full)
        for (int i = 0; i < n_vectors; i++) told[i] = wasm_f32x4_add(told[i], wasm_f32x4_mul(load(s + r * m + 4 * i), kr));
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < n_vectors; i++) {
        told[i] = wasm_f32x4_sub(load(v + 4 * i), wasm_f32x4_mul(told[i], splat_f32(decay)));
        told[i] = wasm_f32x4_mul(splat_f32(beta), told[i]);
    }
    for (uint32_t r = 0; r < n; r++) {
        v128 kr = wasm_v128_load32_splat(k + r), qr = wasm_v128_load32_splat(q + r);
#pragma clang loop unroll(full)
        for (int i = 0; i < n_vectors; i++) {
            v128 kept = wasm_f32x4_mul(load(s + r * m + 4 * i), splat_f32(decay));
            v128 moved = wasm_f32x4_add(kept, wasm_f32x4_mul(kr, told[i]));
            store(s + r * m + 4 * i, moved);
            sum[i] = wasm_f32x4_add(sum[i], wasm_f32x4_mul(moved, qr));
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < n_vectors; i++) store(y + 4 * i, wasm_f32x4_mul(sum[i], splat_f32(scale)));
}

// The same of one column.
static void delta_column(
    float* s, size_t m, uint32_t n, const float* q, const float* k, const float* v, float* y, float decay, float beta,
    float scale
) {
    float told = 0, sum = 0;
    for (uint32_t r = 0; r < n; r++) told += s[r * m] * k[r];
    told = beta * (*v - told * decay);
    for (uint32_t r = 0; r < n; r++) {
        s[r * m] = s[r * m] * decay + k[r] * told;
        sum += s[r * m] * q[r];
    }
    *y = sum * scale;
}

void delta_net(const Call* c) {
    const Operand *q_at = &c->op->in[0], *v_at = &c->op->in[2];
    uint32_t n_heads = (uint32_t)c->op->params[0], n_k_heads = (uint32_t)c->op->params[1];
    uint32_t n = q_at->width / n_k_heads, m = v_at->width / n_heads, pieces = (m + AT_ONCE - 1) / AT_ONCE, piece, last;
    float scale = (float)c->op->params[2];
    while (take(c, n_heads * pieces, 1, &piece, &last)) {
        uint32_t h = piece / pieces, begin = piece % pieces * AT_ONCE, end = m - begin < AT_ONCE ? m : begin + AT_ONCE;
        uint32_t k_head = c->op->params[3] != 0 ? h % n_k_heads : h / (n_heads / n_k_heads);
        float* s = state(c, &c->op->out[1]) + (size_t)h * n * m;
        for (uint32_t t = 0; t < n_rows(c, v_at); t++) {
            size_t of_k = (size_t)t * q_at->width + (size_t)k_head * n, of_v = (size_t)t * v_at->width + (size_t)h * m;
            const float *q = values(c, q_at) + of_k, *k = values(c, &c->op->in[1]) + of_k, *v = values(c, v_at) + of_v;
            float decay = exp_f32(values(c, &c->op->in[3])[(size_t)t * n_heads + h]);
            float beta = values(c, &c->op->in[4])[(size_t)t * n_heads + h], *y = values(c, &c->op->out[0]) + of_v;
            uint32_t i = begin;
            for (; i + 16 <= end; i += 16) delta_columns(s + i, m, n, q, k, v + i, y + i, decay, beta, scale, 4);
            for (; i + 4 <= end; i += 4) delta_columns(s + i, m, n, q, k, v + i, y + i, decay, beta, scale, 1);
            for (; i < end; i++) delta_column(s + i, m, n, q, k, v + i, y + i, decay, beta, scale);
        }
    }
}
