// store_kv: keep the keys and values of these tokens in the layer's cache, at positions pos .. pos + T.
// attention: softmax(scale * q k^T) v over the cached positions up to each query's own; query heads in groups share a key head.
//   q: f32 (T, n_heads * head_dim), out: f32 (T, n_heads * value_dim), any head_dim, value_dim and group; sinks: f32 (n_heads).
//   A query sees the last `window` positions, or those of its chunk of as many, or all (0). Scores may be capped, and may lose
//   their distance times a slope of each head, which is a table in the program.
//   The cache, f32 or f16: keys in blocks of TILE positions, [position / TILE][element of a row][position % TILE], so that a
//   vector holds one element of four keys; values row by row. What a query does not see is never added, NaN or not.
//
//   Softmax is taken online (Milakov and Gimelshein 2018, arXiv 1805.02867): a row (one head of one token) goes through the
//   keys a tile at a time with its running maximum, sum and output. Tiles begin at multiples of TILE, a row's first is that of
//   the first key that it sees, and every sum is taken in one order, so a row's bits do not depend on the rows beside it, on
//   the split of the prompt or on threads. A sink is what a row begins with.
//
//   A unit of work is a key head with up to unit_tokens() tokens and their heads of the group, or a part of these heads where
//   units are few. Long units come first. A thread's scratch, in floats, with rows = group * unit_tokens(group):
//       TILE * head_dim keys, TILE * value_dim values, rows * TILE scores, rows maxima, rows sums
#include "kernels.h"
#include "mathf.h"

enum { UNIT_TOKENS = 16, UNIT_ROWS = 64, CHANNELS = 16 };

static inline uint32_t unit_tokens(uint32_t group) {
    return group >= UNIT_ROWS ? 1 : group * UNIT_TOKENS <= UNIT_ROWS ? UNIT_TOKENS : UNIT_ROWS / group;
}

static inline uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

// The cache

// Four floats to f16, to nearest, ties to even, in the low halves of four u32.
static inline v128 f32_to_f16(v128 x) {
    v128 bits = wasm_v128_and(x, wasm_i32x4_const_splat(0x7fffffff));
    v128 sign = wasm_v128_and(wasm_u32x4_shr(x, 16), wasm_i32x4_const_splat(0x8000));
    // Normal: a smaller exponent, and a mantissa of 10 bits; past the largest this carries into infinity.
    v128 odd = wasm_v128_and(wasm_u32x4_shr(bits, 13), wasm_i32x4_const_splat(1));
    v128 normal = wasm_u32x4_shr(wasm_i32x4_add(wasm_i32x4_add(bits, odd), wasm_i32x4_const_splat(0xfff - (112 << 23))), 13);
    // Subnormal: 0.5f has the last bit that an f16 has, so adding it rounds.
    v128 half = wasm_f32x4_const_splat(0.5f), subnormal = wasm_i32x4_sub(wasm_f32x4_add(bits, half), half);
    v128 h = wasm_v128_bitselect(subnormal, normal, wasm_i32x4_lt(bits, wasm_i32x4_const_splat(0x38800000)));
    h = wasm_v128_bitselect(wasm_i32x4_const_splat(0x7c00), h, wasm_i32x4_ge(bits, wasm_i32x4_const_splat(0x47800000)));
    h = wasm_v128_bitselect(wasm_i32x4_const_splat(0x7e00), h, wasm_i32x4_gt(bits, wasm_i32x4_const_splat(0x7f800000)));
    return wasm_v128_or(h, sign);
}

static inline uint16_t float_to_half(float x) { return (uint16_t)wasm_i32x4_extract_lane(f32_to_f16(splat_f32(x)), 0); }

// Elements begin .. end of the keys: a cache line of each row at a time, whose places lie TILE apart.
static void store_keys(
    void* keys, int f16, const float* k, uint32_t width, uint32_t pos, uint32_t n, uint32_t begin, uint32_t end
) {
    for (uint32_t first = begin; first < end; first += CHANNELS) {
        uint32_t last = least(first + CHANNELS, end);
        for (uint32_t t = 0; t < n; t++) {
            size_t at = (size_t)((pos + t) / TILE) * width * TILE + (pos + t) % TILE;
            const float* row = k + (size_t)t * width;
            for (uint32_t i = first; i < last; i++) {
                if (f16)
                    ((uint16_t*)keys)[at + (size_t)i * TILE] = float_to_half(row[i]);
                else
                    ((float*)keys)[at + (size_t)i * TILE] = row[i];
            }
        }
    }
}

static void store_values(void* to, int f16, const float* v, size_t first, size_t n) {
    float* out = (float*)to + first;
    uint16_t* halves = (uint16_t*)to + first;
    if (!f16) {
        __builtin_memcpy(out, v, n * sizeof(float));
        return;
    }
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        v128 h = f32_to_f16(load(v + i));
        wasm_v128_store64_lane(halves + i, wasm_u16x8_narrow_i32x4(h, h), 0);
    }
    for (; i < n; i++) halves[i] = float_to_half(v[i]);
}

void store_kv(const Call* c) {
    const Operand *k = &c->op->in[0], *v = &c->op->in[1];
    const Team* t = c->team;
    uint32_t n = n_rows(c, k), begin, end;
    int f16 = t->f16_cache != 0;
    share(c, (k->width + CHANNELS - 1) / CHANNELS, &begin, &end);
    store_keys(
        cache(c, &c->op->out[0]), f16, values(c, k), k->width, t->pos, n, begin * CHANNELS, least(end * CHANNELS, k->width)
    );
    size_t all = (size_t)n * v->width;
    share(c, (uint32_t)((all + CHANNELS - 1) / CHANNELS), &begin, &end);
    size_t first = (size_t)begin * CHANNELS, last = (size_t)end * CHANNELS < all ? (size_t)end * CHANNELS : all;
    store_values(cache(c, &c->op->out[1]), f16, values(c, v) + first, (size_t)t->pos * v->width + first, last - first);
}

// Attention

// One row or two that take the same keys or values.
typedef struct {
    float* y;
    const float* x;
    float scale;
} Row;

// For each of n_rows: y[at .. at + 4 * n_vectors) = y * scale (0 if fresh) + the sum over j < n of x[j] * m[j * stride ..], in
// the order of j. Two rows by four vectors are what 16 registers hold; one by eight is half as fast, since Cranelift loads all
// of m before it multiplies.
INLINE void accumulate(
    const Row* row, size_t at, const float* m, size_t stride, uint32_t n, const int fresh, const int n_rows, const int n_vectors
) {
    v128 sum[2][4];
#pragma clang loop unroll(full)
    for (int r = 0; r < n_rows; r++)
#pragma clang loop unroll(full)
        for (int i = 0; i < n_vectors; i++)
            sum[r][i] = fresh ? zero() : wasm_f32x4_mul(load(row[r].y + at + 4 * i), splat_f32(row[r].scale));
    const float *x0 = row[0].x, *x1 = row[n_rows - 1].x;
    for (uint32_t j = 0; j < n; j++, m += stride) {
        __asm__("" : "+r"(m));  // one address for all vectors, rather than one each
        v128 x[2] = {wasm_v128_load32_splat(x0 + j), n_rows == 2 ? wasm_v128_load32_splat(x1 + j) : zero()};
#pragma clang loop unroll(full)
        for (int i = 0; i < n_vectors; i++) {
            v128 mi = load(m + 4 * i);
            for (int r = 0; r < n_rows; r++) sum[r][i] = wasm_f32x4_add(sum[r][i], wasm_f32x4_mul(x[r], mi));
        }
    }
#pragma clang loop unroll(full)
    for (int r = 0; r < n_rows; r++)
#pragma clang loop unroll(full)
        for (int i = 0; i < n_vectors; i++) store(row[r].y + at + 4 * i, sum[r][i]);
}

// The scores of one row or two with all keys of a tile.
static void score(const Row* row, int n_rows, const float* keys, uint32_t head_dim) {
    for (uint32_t k = 0; k < TILE; k += 16) {
        if (n_rows == 2)
            accumulate(row, k, keys + k, TILE, head_dim, 1, 2, 4);
        else
            accumulate(row, k, keys + k, TILE, head_dim, 1, 1, 4);
    }
}

// y = y * scale + the sum over the first n keys of x[j] * values[j].
static void weigh(const Row* row, int n_rows, const float* v, uint32_t n, uint32_t dim) {
    uint32_t i = 0;
    for (; i + 16 <= dim; i += 16) {
        if (n_rows == 2)
            accumulate(row, i, v + i, dim, n, 0, 2, 4);
        else
            accumulate(row, i, v + i, dim, n, 0, 1, 4);
    }
    for (; i + 4 <= dim; i += 4)
        for (int r = 0; r < n_rows; r++) accumulate(row + r, i, v + i, dim, n, 0, 1, 1);
    for (; i < dim; i++) {
        for (int r = 0; r < n_rows; r++) {
            float sum = row[r].y[i] * row[r].scale;
            for (uint32_t j = 0; j < n; j++) sum += row[r].x[j] * v[(size_t)j * dim + i];
            row[r].y[i] = sum;
        }
    }
}

// The keys of a tile that a row sees.
typedef struct {
    uint32_t begin, end;
} Seen;

// The scores of a row that are seen to weights, exp(score * scale - maximum), with its running maximum and sum. Returns what
// the output so far is to be multiplied by. Lanes beside them become 0, whatever they held.
static float soften(float* scores, Seen some, float scale, float* maximum, float* sum) {
    v128 largest = splat_f32(*maximum), lane = wasm_i32x4_const(0, 1, 2, 3), total = zero();
    uint32_t first = some.begin & ~3u;
    for (uint32_t i = first; i < some.end; i += 4) {
        v128 key = wasm_i32x4_add(lane, wasm_i32x4_splat((int)i));
        v128 seen = wasm_i32x4_lt(key, wasm_i32x4_splat((int)some.end));
        seen = wasm_v128_and(seen, wasm_i32x4_ge(key, wasm_i32x4_splat((int)some.begin)));
        v128 x = wasm_f32x4_mul(load(scores + i), splat_f32(scale));
        x = wasm_v128_bitselect(x, splat_f32(-__builtin_inff()), seen);
        store(scores + i, x);
        largest = wasm_f32x4_pmax(largest, x);
    }
    v128 now = splat_f32(max_f32(largest));
    for (uint32_t i = first; i < some.end; i += 4) {
        v128 e = exp_f32x4(wasm_f32x4_sub(load(scores + i), now));
        store(scores + i, e);
        total = wasm_f32x4_add(total, e);
    }
    float rescale = exp_f32(*maximum - wasm_f32x4_extract_lane(now, 0));
    *maximum = wasm_f32x4_extract_lane(now, 0);
    *sum = *sum * rescale + sum_f32(total);
    return rescale;
}

// n halves to f32, exactly; what is not finite in a second look at all of them, as it is rare.
static void widen(float* out, const uint16_t* halves, size_t n) {
    const v128 exponent = wasm_i16x8_const_splat(0x7c00), kept = wasm_i32x4_const_splat((int32_t)0x8fffe000);
    v128 special = zero();
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        v128 h = load(halves + i);
        v128 low = wasm_i32x4_shl(wasm_i32x4_extend_low_i16x8(h), 13);
        v128 high = wasm_i32x4_shl(wasm_i32x4_extend_high_i16x8(h), 13);
        special = wasm_v128_or(special, wasm_i16x8_eq(wasm_v128_and(h, exponent), exponent));
        store(out + i, wasm_f32x4_mul(wasm_v128_and(low, kept), wasm_f32x4_const_splat(0x1p112f)));
        store(out + i + 4, wasm_f32x4_mul(wasm_v128_and(high, kept), wasm_f32x4_const_splat(0x1p112f)));
    }
    if (wasm_v128_any_true(special)) i = 0;
    for (; i < n; i++) out[i] = half_to_float(halves[i]);
}

// Bring rows into the CPU's caches, many lines at once: whoever computes with them has too few reads under way.
static void touch(const uint8_t* p, uint32_t n_rows, size_t stride, size_t row_bytes) {
    uint32_t all = 0;
    for (uint32_t r = 0; r < n_rows; r++, p += stride) {
        for (size_t i = 0; i < row_bytes; i += 64) all |= p[i];
        all |= p[row_bytes - 1];
    }
    __asm__ volatile("" : : "r"(all));
}

typedef struct {
    const float* q;
    float* out;
    const void *keys, *values;
    uint32_t n_heads, n_kv_heads, group, head_dim, value_dim, pos, window;
    int f16, chunked;
    float scale, softcap;  // softcap: 0 for none
    const float* sinks;
    const double* slopes;
    float *key_tile, *value_tile, *scores, *maxima, *sums;  // scratch
    const uint32_t* control;
} Attention;

// A unit: tokens first .. first + n with the query heads begin .. end of key head h's group.
typedef struct {
    uint32_t h, first, n, begin, end;
} Unit;

// One tile of keys of head h: [head_dim][TILE].
static const float* key_tile(const Attention* a, uint32_t h, uint32_t tile) {
    size_t n = (size_t)a->head_dim * TILE, at = ((size_t)tile * a->n_kv_heads + h) * n, size = a->f16 ? 2 : 4;
    const uint8_t* from = (const uint8_t*)a->keys + at * size;
    touch(from, 1, 0, n * size);
    if (!a->f16) return (const float*)from;
    widen(a->key_tile, (const uint16_t*)from, n);
    return a->key_tile;
}

// The first n values of a tile of head h: [n][value_dim]. Moved together, since rows at a distance of a power of two would push
// each other out of the CPU's caches.
static const float* value_tile(const Attention* a, uint32_t h, uint32_t tile, uint32_t n) {
    size_t dim = a->value_dim, stride = a->n_kv_heads * dim, size = a->f16 ? 2 : 4;
    const uint8_t* from = (const uint8_t*)a->values + (tile * TILE * stride + h * dim) * size;
    touch(from, n, stride * size, dim * size);
    for (uint32_t j = 0; j < n; j++, from += stride * size) {
        float* to = a->value_tile + j * dim;
        size_t i = 0;
        if (a->f16) {
            widen(to, (const uint16_t*)from, dim);
            continue;
        }
        for (; i + 4 <= dim; i += 4) store(to + i, load((const float*)from + i));
        for (; i < dim; i++) to[i] = ((const float*)from)[i];
    }
    return a->value_tile;
}

// Where row r of a unit lies among all rows, token by token and head by head.
static inline size_t place(const Attention* a, const Unit* u, uint32_t r) {
    uint32_t n_heads = u->end - u->begin;
    return (size_t)(u->first + r / n_heads) * a->n_heads + u->h * a->group + u->begin + r % n_heads;
}

static inline uint32_t position(const Attention* a, const Unit* u, uint32_t r) {
    return a->pos + u->first + r / (u->end - u->begin);
}

static inline uint32_t first_seen(const Attention* a, uint32_t pos) {
    if (!a->window) return 0;
    return a->chunked ? pos - pos % a->window : pos < a->window ? 0 : pos + 1 - a->window;
}

// Which keys of a tile row r of a unit sees.
static inline Seen seen_of(const Attention* a, const Unit* u, uint32_t r, uint32_t tile) {
    uint32_t pos = position(a, u, r), first = first_seen(a, pos), at = tile * TILE;
    return (Seen){first > at ? first - at : 0, pos < at ? 0 : least(TILE, pos + 1 - at)};
}

// Scores of row r as softmax takes them, where they are more than scaled products.
static void adjust(const Attention* a, const Unit* u, uint32_t r, uint32_t tile, Seen some, float* scores) {
    float slope = a->slopes ? (float)a->slopes[place(a, u, r) % a->n_heads] : 0;
    v128 lane = wasm_i32x4_const(0, 1, 2, 3), pos = wasm_i32x4_splat((int)(position(a, u, r) - tile * TILE));
    for (uint32_t i = some.begin & ~3u; i < some.end; i += 4) {
        v128 x = wasm_f32x4_mul(load(scores + i), splat_f32(a->scale));
        if (a->softcap) {
            v128 cap = splat_f32(a->softcap);
            x = wasm_f32x4_mul(cap, tanh_f32x4(wasm_f32x4_div(x, cap)));
        }
        v128 distance = wasm_f32x4_convert_i32x4(wasm_i32x4_sub(pos, wasm_i32x4_add(lane, wasm_i32x4_splat((int)i))));
        store(scores + i, a->slopes ? wasm_f32x4_sub(x, wasm_f32x4_mul(splat_f32(slope), distance)) : x);
    }
}

static void attend(const Attention* a, const Unit* u) {
    uint32_t n_rows = u->n * (u->end - u->begin), end = a->pos + u->first + u->n;
    for (uint32_t r = 0; r < n_rows; r++) {
        __builtin_memset(a->out + place(a, u, r) * a->value_dim, 0, a->value_dim * sizeof(float));
        float sink = a->sinks ? a->sinks[place(a, u, r) % a->n_heads] : 0;
        const float lowest = -0x1.fffffep127f;  // not -infinity, with which a tile of such scores would make NaN
        a->maxima[r] = a->sinks && sink > lowest ? sink : lowest;
        a->sums[r] = a->sinks ? exp_f32(sink - a->maxima[r]) : 0;
    }
    const int plain = !a->softcap && !a->slopes;
    for (uint32_t tile = first_seen(a, a->pos + u->first) / TILE; tile * TILE < end; tile++) {
        if (__atomic_load_n(a->control, __ATOMIC_RELAXED) != RUN) return;  // far into a long context a unit takes 0.1 s
        const float* keys = key_tile(a, u->h, tile);
        for (uint32_t r = 0; r < n_rows; r += 2) {
            int n = n_rows - r > 1 ? 2 : 1;
            Row rows[2];
            for (int i = 0; i < n; i++)
                rows[i] = (Row){a->scores + (r + i) * TILE, a->q + place(a, u, r + i) * a->head_dim, 0};
            score(rows, n, keys, a->head_dim);
        }
        const float* v = value_tile(a, u->h, tile, least(TILE, end - tile * TILE));
        for (uint32_t r = 0, n; r < n_rows; r += n) {
            Seen some = seen_of(a, u, r, tile), next = r + 1 < n_rows ? seen_of(a, u, r + 1, tile) : (Seen){0, 0};
            n = next.begin == some.begin && next.end == some.end ? 2 : 1;
            if (some.begin >= some.end) continue;
            Row rows[2];
            for (uint32_t i = 0; i < n; i++) {
                float* weights = a->scores + (r + i) * TILE;
                if (!plain) adjust(a, u, r + i, tile, some, weights);
                float rescale = soften(weights, some, plain ? a->scale : 1, &a->maxima[r + i], &a->sums[r + i]);
                rows[i] = (Row){a->out + place(a, u, r + i) * a->value_dim, weights + some.begin, rescale};
            }
            weigh(rows, (int)n, v + (size_t)some.begin * a->value_dim, some.end - some.begin, a->value_dim);
        }
    }
    for (uint32_t r = 0; r < n_rows; r++) {
        float* out = a->out + place(a, u, r) * a->value_dim;
        for (uint32_t i = 0; i < a->value_dim; i++) out[i] /= a->sums[r];
    }
}

// Into how many parts a group is cut, so that n units occupy all threads to the end. No more, since a part reads the keys anew.
static uint32_t count_parts(uint32_t n, uint32_t n_threads, uint32_t group) {
    if (n % n_threads == 0) return 1;
    if (n_threads % n == 0) return least(n_threads / n, group);
    return least((2 * n_threads + n - 1) / n, group);
}

void attention(const Call* c) {
    const Operand *q = &c->op->in[0], *keys = &c->op->in[1], *v = &c->op->in[2], *sinks = &c->op->in[3];
    const double* p = c->op->params;
    uint32_t n_heads = (uint32_t)p[0], n_kv_heads = (uint32_t)p[1], group = n_heads / n_kv_heads;
    Attention a = {
        .q = values(c, q),
        .out = values(c, &c->op->out[0]),
        .keys = cache(c, keys),
        .values = cache(c, v),
        .n_heads = n_heads,
        .n_kv_heads = n_kv_heads,
        .group = group,
        .head_dim = keys->width / n_kv_heads,
        .value_dim = v->width / n_kv_heads,
        .pos = c->team->pos,
        .f16 = c->team->f16_cache != 0,
        .scale = (float)p[2],
        .window = (uint32_t)p[3],
        .chunked = p[4] != 0,
        .softcap = (float)p[5],
        .sinks = sinks->space == ABSENT ? 0 : row_f32(c, sinks),
        .slopes = p[6] != 0 ? (const double*)((const uint8_t*)c->program + (uint32_t)p[6]) : 0,
        .control = &c->team->control,
    };
    uint32_t n_tokens = n_rows(c, q), at_once = unit_tokens(group), n_blocks = (n_tokens + at_once - 1) / at_once;
    a.key_tile = (float*)(scratch(c) + c->team->attention_at);
    a.value_tile = a.key_tile + (size_t)TILE * a.head_dim;
    a.scores = a.value_tile + (size_t)TILE * a.value_dim;
    a.maxima = a.scores + (size_t)TILE * group * at_once;
    a.sums = a.maxima + (size_t)group * at_once;
    uint32_t n_parts = count_parts(n_blocks * n_kv_heads, c->team->n_threads, group);
    for (uint32_t i, end; take(c, n_blocks * n_kv_heads * n_parts, 1, &i, &end);) {
        uint32_t part = i % n_parts, first = (n_blocks - 1 - i / n_parts / n_kv_heads) * at_once;
        const Unit u = {
            .h = i / n_parts % n_kv_heads,
            .first = first,
            .n = least(at_once, n_tokens - first),
            .begin = group * part / n_parts,
            .end = group * (part + 1) / n_parts,
        };
        attend(&a, &u);
    }
}
