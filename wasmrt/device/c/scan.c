// ssm_scan: s = s * exp(dt' a) + (dt' x) b, y = s . c + d x, dt' = softplus(dt), token by token
//   x, y: f32 (T, n_heads * p), dt: (T, n_heads), b, c: (T, n_groups * n), a: (n_heads, 1 or n), d, if any: n_heads numbers,
//   state: f32 (n_heads, p, n). Channels, p a head, are split over threads. s . c is summed in four lanes, then the rest.
// delta_net: s = s * exp(g); s += k (beta (v - s^T k))^T; y = scale * s^T q, token by token and head by head
//   q, k: f32 (T, n_k_heads * n), v, y: (T, n_heads * m), g, beta: (T, n_heads), state: f32 (n_heads, n, m). Columns of a head's
//   state do without each other: some of them are a piece of work. Sums are taken in the order of n.
//   Both: a pass of T tokens does what T passes of one do, in the same order.
#include "kernels.h"
#include "mathf.h"

// One channel's state moved on by one token; returns s . c. decay: of each element, or of all of them.
static float move_on(float* s, const float* decay, int one_decay, float x, const float* b, const float* c, uint32_t n) {
    v128 sums = zero();
    uint32_t j = 0;
    for (; j + 4 <= n; j += 4) {
        v128 factor = one_decay ? splat_f32(decay[0]) : load(decay + j);
        v128 moved = wasm_f32x4_add(wasm_f32x4_mul(load(s + j), factor), wasm_f32x4_mul(splat_f32(x), load(b + j)));
        store(s + j, moved);
        sums = wasm_f32x4_add(sums, wasm_f32x4_mul(moved, load(c + j)));
    }
    float sum = sum_f32(sums);
    for (; j < n; j++) {
        s[j] = s[j] * decay[one_decay ? 0 : j] + x * b[j];
        sum += s[j] * c[j];
    }
    return sum;
}

static void decays(float* out, const float* a, float dt, uint32_t n) {
    uint32_t j = 0;
    for (; j + 4 <= n; j += 4) store(out + j, exp_f32x4(wasm_f32x4_mul(splat_f32(dt), load(a + j))));
    for (; j < n; j++) out[j] = exp_f32(dt * a[j]);
}

void ssm_scan(const Call* c) {
    const Operand *x_at = &c->op->in[0], *b_at = &c->op->in[2], *d_at = &c->op->in[5];
    const Weight* a_weight = weight(c, &c->op->in[4]);
    uint32_t n_heads = (uint32_t)c->op->params[0], n_groups = (uint32_t)c->op->params[1];
    uint32_t p = x_at->width / n_heads, n = b_at->width / n_groups, n_a = a_weight->n, begin, end;
    const float *x = values(c, x_at), *dt = values(c, &c->op->in[1]), *b = values(c, b_at), *cs = values(c, &c->op->in[3]);
    float *y = values(c, &c->op->out[0]), *s = state(c, &c->op->out[1]), *decay = row_room(c), *room = decay + n_a;
    const float* a = small_f32(c, &c->op->in[4], room);
    const float* d = d_at->space == ABSENT ? 0 : small_f32(c, d_at, room + n_numbers(a_weight));
    share(c, x_at->width, &begin, &end);
    for (uint32_t first = begin, last; first < end; first = last) {
        uint32_t h = first / p;
        last = (h + 1) * p < end ? (h + 1) * p : end;
        for (uint32_t t = 0; t < n_rows(c, x_at); t++) {
            size_t group = (size_t)t * b_at->width + (size_t)(h / (n_heads / n_groups)) * n, row = (size_t)t * x_at->width;
            float step = wasm_f32x4_extract_lane(softplus_f32x4(splat_f32(dt[(size_t)t * n_heads + h])), 0);
            decays(decay, a + (size_t)h * n_a, step, n_a);
            for (uint32_t i = first; i < last; i++) {
                float xi = x[row + i];
                float sum = move_on(s + (size_t)i * n, decay, n_a == 1, xi * step, b + group, cs + group, n);
                y[row + i] = d ? sum + xi * d[h] : sum;
            }
        }
    }
}

enum { AT_ONCE = 16 };  // columns of a piece

// Some columns of a head's state, n rows at a distance of m, moved on by one token. v, y: of these columns.
INLINE void delta_columns(
    float* s, size_t m, uint32_t n, const float* q, const float* k, const float* v, float* y, float decay, float beta, float scale,
    const int n_vectors
) {
    v128 told[4], sum[4];
#pragma clang loop unroll(full)
    for (int i = 0; i < n_vectors; i++) told[i] = sum[i] = zero();
    for (uint32_t r = 0; r < n; r++) {
#pragma clang loop unroll(full)
        for (int i = 0; i < n_vectors; i++) {
            v128 kept = wasm_f32x4_mul(load(s + r * m + 4 * i), splat_f32(decay));
            store(s + r * m + 4 * i, kept);
            told[i] = wasm_f32x4_add(told[i], wasm_f32x4_mul(kept, splat_f32(k[r])));
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < n_vectors; i++) told[i] = wasm_f32x4_mul(splat_f32(beta), wasm_f32x4_sub(load(v + 4 * i), told[i]));
    for (uint32_t r = 0; r < n; r++) {
#pragma clang loop unroll(full)
        for (int i = 0; i < n_vectors; i++) {
            v128 moved = wasm_f32x4_add(load(s + r * m + 4 * i), wasm_f32x4_mul(splat_f32(k[r]), told[i]));
            store(s + r * m + 4 * i, moved);
            sum[i] = wasm_f32x4_add(sum[i], wasm_f32x4_mul(moved, splat_f32(q[r])));
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < n_vectors; i++) store(y + 4 * i, wasm_f32x4_mul(sum[i], splat_f32(scale)));
}

// The same of one column.
static void delta_column(
    float* s, size_t m, uint32_t n, const float* q, const float* k, const float* v, float* y, float decay, float beta, float scale
) {
    float told = 0, sum = 0;
    for (uint32_t r = 0; r < n; r++) {
        s[r * m] *= decay;
        told += s[r * m] * k[r];
    }
    told = beta * (*v - told);
    for (uint32_t r = 0; r < n; r++) {
        s[r * m] += k[r] * told;
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
