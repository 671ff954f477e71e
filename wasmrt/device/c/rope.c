// rope: rotate the first n_dims elements of each head by angles that grow with position; the others are copied.
//   x: f32 (T, heads * head_dim). Pair i turns by position * angle[i] / factors[i], in double; the angles are a table in
//   the program. All tokens' heads in a row are split over threads; the heads of a token share sines and cosines.
#include "kernels.h"
#include "mathf.h"

enum { PAIRS = 32 };  // turned at once

typedef struct {
    uint32_t head_dim, n_pairs, halves;
    double magnitude;
    const double* angles;
    const float* factors;
} Rope;

// magnitude times the cosine and sine by which pairs begin .. begin + n turn at a position.
static void turns(const Rope* r, uint32_t position, uint32_t begin, uint32_t n, float* cosine, float* sine) {
    for (uint32_t i = 0; i < n; i += 2) {
        double turn[2];
        for (uint32_t j = 0; j < 2; j++) {
            uint32_t pair = begin + (i + j < n ? i + j : i);
            turn[j] = position * (r->factors ? r->angles[pair] / r->factors[pair] : r->angles[pair]);
        }
        v128 s, c, magnitude = wasm_f64x2_splat(r->magnitude);
        sincos_f64x2(load(turn), &s, &c);
        wasm_v128_store64_lane(cosine + i, wasm_f32x4_demote_f64x2_zero(wasm_f64x2_mul(magnitude, c)), 0);
        wasm_v128_store64_lane(sine + i, wasm_f32x4_demote_f64x2_zero(wasm_f64x2_mul(magnitude, s)), 0);
    }
}

static void rotate_halves(float* y, const float* x, uint32_t apart, uint32_t n, const float* cosine, const float* sine) {
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        v128 a = load(x + i), b = load(x + apart + i), c = load(cosine + i), s = load(sine + i);
        store(y + i, wasm_f32x4_sub(wasm_f32x4_mul(a, c), wasm_f32x4_mul(b, s)));
        store(y + apart + i, wasm_f32x4_add(wasm_f32x4_mul(a, s), wasm_f32x4_mul(b, c)));
    }
    for (; i < n; i++) {
        float a = x[i], b = x[apart + i];
        y[i] = a * cosine[i] - b * sine[i];
        y[apart + i] = a * sine[i] + b * cosine[i];
    }
}

static void rotate_pairs(float* y, const float* x, uint32_t n, const float* cosine, const float* sine) {
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        v128 low = load(x + 2 * i), high = load(x + 2 * i + 4), c = load(cosine + i), s = load(sine + i);
        v128 a = wasm_i32x4_shuffle(low, high, 0, 2, 4, 6), b = wasm_i32x4_shuffle(low, high, 1, 3, 5, 7);
        v128 first = wasm_f32x4_sub(wasm_f32x4_mul(a, c), wasm_f32x4_mul(b, s));
        v128 second = wasm_f32x4_add(wasm_f32x4_mul(a, s), wasm_f32x4_mul(b, c));
        store(y + 2 * i, wasm_i32x4_shuffle(first, second, 0, 4, 1, 5));
        store(y + 2 * i + 4, wasm_i32x4_shuffle(first, second, 2, 6, 3, 7));
    }
    for (; i < n; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        y[2 * i] = a * cosine[i] - b * sine[i];
        y[2 * i + 1] = a * sine[i] + b * cosine[i];
    }
}

// n heads of one token.
static void rotate_heads(const Rope* r, float* y, const float* x, uint32_t n, uint32_t position) {
    float cosine[PAIRS], sine[PAIRS];
    for (uint32_t begin = 0; begin < r->n_pairs; begin += PAIRS) {
        uint32_t some = r->n_pairs - begin < PAIRS ? r->n_pairs - begin : PAIRS;
        turns(r, position, begin, some, cosine, sine);
        for (uint32_t h = 0; h < n; h++) {
            size_t head = (size_t)h * r->head_dim;
            if (r->halves)
                rotate_halves(y + head + begin, x + head + begin, r->n_pairs, some, cosine, sine);
            else
                rotate_pairs(y + head + 2 * begin, x + head + 2 * begin, some, cosine, sine);
        }
    }
    uint32_t turned = 2 * r->n_pairs;
    for (uint32_t h = 0; h < n && turned < r->head_dim; h++) {
        size_t rest = (size_t)h * r->head_dim + turned;
        __builtin_memcpy(y + rest, x + rest, (r->head_dim - turned) * sizeof(float));
    }
}

void rope(const Call* c) {
    const Operand *x_at = &c->op->in[0], *factors = &c->op->in[1];
    const double* params = c->op->params;
    const Rope r = {
        .head_dim = (uint32_t)params[0],
        .n_pairs = (uint32_t)params[1] / 2,
        .halves = params[2] != 0,
        .magnitude = params[3],
        .angles = (const double*)((const uint8_t*)c->program + (uint32_t)params[4]),
        .factors = factors->space == ABSENT ? 0 : row_f32(c, factors),
    };
    const float* x = values(c, x_at);
    float* y = values(c, &c->op->out[0]);
    uint32_t n_heads = x_at->width / r.head_dim, begin, end;
    share(c, n_rows(c, x_at) * n_heads, &begin, &end);
    while (begin < end) {
        uint32_t token = begin / n_heads, some = n_heads - begin % n_heads;
        if (some > end - begin) some = end - begin;
        size_t first = (size_t)begin * r.head_dim;
        rotate_heads(&r, y + first, x + first, some, c->team->pos + token);
        begin += some;
    }
}
