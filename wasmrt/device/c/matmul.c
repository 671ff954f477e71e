// matmul: y[t, r] = x[t, :] . w[r, :] for n_rows rows r from first_row on.
//   w: packed (m, n), x: f32 (T, n), y: f32 (T, m). Rows of w are split over threads, taken in small pieces.
//   Quantized formats: x is quantized to 8 bits a block (quantize.h), products and sums of a block are exact integers, blocks
//   are added in f32 in order; by rows (rows.h) for few tokens, by tiles (tiles.h) for many: bit for bit the same.
//   F32, F16, BF16: f32 products, summed in sixteen lanes, always the same way.
#include "matmul.h"
#include "floats.h"
#include "tiles.h"

// Few tokens: y[r] for n rows that follow one another.
INLINE void rows_of(int type, const uint8_t* p, uint32_t row_bytes, uint32_t n_blocks, const void* x, float* y, uint32_t n) {
    for (uint32_t r = 0; r < n; r++, p += row_bytes) y[r] = row_of(type, p, x, n_blocks);
}

// One function a format: kernels this size are compiled one by one.
#define ROWS(T)                                                                                     \
    static __attribute__((noinline)) void rows_##T(                                                 \
        const uint8_t* p, uint32_t bytes, uint32_t n_blocks, const void* x, float* y, uint32_t n) { \
        rows_of(T, p, bytes, n_blocks, x, y, n);                                                    \
    }
ROWS(Q4_0) ROWS(Q4_1) ROWS(Q5_0) ROWS(Q5_1) ROWS(Q8_0) ROWS(Q2_K) ROWS(Q3_K) ROWS(Q4_K) ROWS(Q5_K) ROWS(Q6_K)
ROWS(IQ4_NL) ROWS(MXFP4) ROWS(IQ4_XS) ROWS(IQ3_S) ROWS(IQ3_XXS) ROWS(IQ2_S) ROWS(IQ2_XS) ROWS(IQ2_XXS) ROWS(IQ1_M) ROWS(IQ1_S)
ROWS(TQ2_0) ROWS(TQ1_0)

typedef void Rows(const uint8_t* p, uint32_t bytes, uint32_t n_blocks, const void* x, float* y, uint32_t n);
static Rows* const ROWS_OF[] = {
    [Q4_0] = rows_Q4_0, [Q4_1] = rows_Q4_1, [Q5_0] = rows_Q5_0, [Q5_1] = rows_Q5_1, [Q8_0] = rows_Q8_0,
    [Q2_K] = rows_Q2_K, [Q3_K] = rows_Q3_K, [Q4_K] = rows_Q4_K, [Q5_K] = rows_Q5_K, [Q6_K] = rows_Q6_K,
    [IQ4_NL] = rows_IQ4_NL, [MXFP4] = rows_MXFP4, [IQ4_XS] = rows_IQ4_XS, [IQ3_S] = rows_IQ3_S, [IQ3_XXS] = rows_IQ3_XXS,
    [IQ2_S] = rows_IQ2_S, [IQ2_XS] = rows_IQ2_XS, [IQ2_XXS] = rows_IQ2_XXS, [IQ1_M] = rows_IQ1_M, [IQ1_S] = rows_IQ1_S,
    [TQ2_0] = rows_TQ2_0, [TQ1_0] = rows_TQ1_0,
};

void few_tokens(const Call* c, const Weight* w, const uint8_t* p, const void* x, float* y, uint32_t n_rows) {
    uint32_t kind = quantized_kind(w->type);
    if (kind) ROWS_OF[w->type](p, w->row_bytes, w->n / block_of(kind), x, y, n_rows);
    else float_rows(w, p, x, w->n, y, 0, n_rows, 1, row_room(c));
}

// Many tokens: at most GROUP_ROWS rows times all tiles of x, in pairs; an odd last row is its own partner.
#define TILES(NAME, PAIR, TILED, UNPACK, MULTIPLY, BYTES)                                                                     \
    static __attribute__((noinline)) void tiles_##NAME(                                                                       \
        const uint8_t* p, uint32_t row_bytes, uint32_t n_blocks, const void* x, uint32_t n_tiles, float* acc,                 \
        uint32_t n_rows) {                                                                                                    \
        PAIR u[GROUP_ROWS / 2];                                                                                               \
        const TILED* tiles = x;                                                                                               \
        size_t stride = (size_t)n_tiles * TILE_TOKENS;                                                                        \
        __builtin_memset(acc, 0, GROUP_ROWS * stride * sizeof(float));                                                        \
        for (uint32_t b = 0; b < n_blocks; b++) {                                                                             \
            for (uint32_t r = 0; r < ((n_rows + 1) & ~1u); r++)                                                               \
                UNPACK(p + (size_t)(r < n_rows ? r : n_rows - 1) * row_bytes + (size_t)b * (BYTES), &u[r / 2], (int)(r % 2)); \
            for (uint32_t t = 0; t < n_tiles; t++)                                                                            \
                for (uint32_t r = 0; r < n_rows; r += 2)                                                                      \
                    MULTIPLY(&u[r / 2], &tiles[(size_t)t * n_blocks + b], acc + r * stride + t * TILE_TOKENS, stride);        \
        }                                                                                                                     \
    }
#define K_TILES(T)                                                                                                            \
    INLINE void unpack_##T(const uint8_t* p, Pair256* u, int r) { unpack_k(T, p, u, r); }                                     \
    INLINE void multiply_##T(const Pair256* u, const Tile256* x, float* out, size_t stride) { k_tile(T, u, x, out, stride); } \
    TILES(T, Pair256, Tile256, unpack_##T, multiply_##T, k_bytes(T))
#define TILES_32(T)                                                                                                          \
    INLINE void unpack_##T(const uint8_t* p, Pair32* u, int r) { unpack_32_row(T, p, u, r); }                                \
    INLINE void multiply_##T(const Pair32* u, const Tile32* x, float* out, size_t stride) { tile_32(T, u, x, out, stride); } \
    TILES(T, Pair32, Tile32, unpack_##T, multiply_##T, bytes_32(T))
#define WIDE_TILES(T, PAIR, TILED, UNPACK, BYTES)                                                                            \
    INLINE void unpack_##T(const uint8_t* p, PAIR* u, int r) { UNPACK(T, p, u, r); }                                         \
    INLINE void multiply_##T(const PAIR* u, const TILED* x, float* out, size_t stride) {                                     \
        tile_wide(sizeof x->q / 32, u->q[0], u->d, (const v128*)x->q, x->d, out, stride);                                    \
    }                                                                                                                        \
    TILES(T, PAIR, TILED, unpack_##T, multiply_##T, BYTES)
#define TILES_32_WIDE(T) WIDE_TILES(T, Pair32Wide, Tile32Wide, unpack_wide_row, wide_bytes(T))
#define SIGNED_TILES(T) WIDE_TILES(T, Pair256Wide, Tile256Wide, unpack_signed_row, signed_bytes(T))
K_TILES(Q2_K) K_TILES(Q3_K) K_TILES(Q4_K) K_TILES(Q5_K) K_TILES(Q6_K)
TILES_32(Q4_0) TILES_32(Q4_1) TILES_32(Q5_0) TILES_32(Q5_1) TILES_32(MXFP4)
TILES_32_WIDE(Q8_0) TILES_32_WIDE(IQ4_NL)
SIGNED_TILES(IQ4_XS) SIGNED_TILES(IQ3_S) SIGNED_TILES(IQ3_XXS) SIGNED_TILES(IQ2_S) SIGNED_TILES(IQ2_XS) SIGNED_TILES(IQ2_XXS)
SIGNED_TILES(IQ1_M) SIGNED_TILES(IQ1_S) SIGNED_TILES(TQ2_0) SIGNED_TILES(TQ1_0)

typedef void Tiles(
    const uint8_t* p, uint32_t row_bytes, uint32_t n_blocks, const void* x, uint32_t n_tiles, float* acc, uint32_t n_rows);
static Tiles* const TILES_OF[] = {
    [Q4_0] = tiles_Q4_0, [Q4_1] = tiles_Q4_1, [Q5_0] = tiles_Q5_0, [Q5_1] = tiles_Q5_1, [Q8_0] = tiles_Q8_0,
    [Q2_K] = tiles_Q2_K, [Q3_K] = tiles_Q3_K, [Q4_K] = tiles_Q4_K, [Q5_K] = tiles_Q5_K, [Q6_K] = tiles_Q6_K,
    [IQ4_NL] = tiles_IQ4_NL, [MXFP4] = tiles_MXFP4, [IQ4_XS] = tiles_IQ4_XS, [IQ3_S] = tiles_IQ3_S, [IQ3_XXS] = tiles_IQ3_XXS,
    [IQ2_S] = tiles_IQ2_S, [IQ2_XS] = tiles_IQ2_XS, [IQ2_XXS] = tiles_IQ2_XXS, [IQ1_M] = tiles_IQ1_M, [IQ1_S] = tiles_IQ1_S,
    [TQ2_0] = tiles_TQ2_0, [TQ1_0] = tiles_TQ1_0,
};

void many_tokens(const Weight* w, const uint8_t* p, const void* x, uint32_t n_tiles, float* acc, uint32_t n_rows) {
    TILES_OF[w->type](p, w->row_bytes, w->n / block_of(quantized_kind(w->type)), x, n_tiles, acc, n_rows);
}

uint32_t grain_of(const Weight* w) {
    uint32_t grain = (32768 / w->row_bytes) & ~3u;
    return grain < 4 ? 4 : grain;
}

void matmul(const Call* c) {
    const Operand *in = &c->op->in[1], *out = &c->op->out[0];
    const Weight* w = weight(c, &c->op->in[0]);
    const float* x = values(c, in);
    float* y = values(c, out);
    uint32_t first = (uint32_t)c->op->params[0], n_of = (uint32_t)c->op->params[1];
    uint32_t n_tokens = n_rows(c, in), kind = quantized_kind(w->type), begin, end, n_left;
    int tiled = kind && is_tiled(n_tokens);
    if (kind && !is_quantized(c)) {
        if (tiled) quantize_tiles(c, kind, x, w->n, n_tokens, 0, 1);
        else quantize_rows(c, kind, x, w->n, n_tokens);
        if (meet(c)) return;
    }
    const uint8_t* quantized = at(c->team->quantized);
    if (!tiled) {
        size_t x_bytes = row_bytes(kind, w->n);
        while (take_near(c, n_of, grain_of(w), &begin, &end))
            for (uint32_t r = first + begin, n; r < first + end; r += n) {
                const uint8_t* p = packed(c, w, 0, r, &n_left);
                n = first + end - r < n_left ? first + end - r : n_left;
                if (!kind) {
                    float_rows(w, p, x, w->n, y + r, w->n_rows, n, n_tokens, row_room(c));
                    continue;
                }
                for (uint32_t t = 0; t < n_tokens; t++)
                    few_tokens(c, w, p, quantized + t * x_bytes, y + (size_t)t * w->n_rows + r, n);
            }
        return;
    }
    uint32_t n_tiles = (n_tokens + TILE_TOKENS - 1) / TILE_TOKENS;
    size_t stride = (size_t)n_tiles * TILE_TOKENS;
    float* acc = (float*)(scratch(c) + c->team->acc_at);
    while (take(c, n_of, GROUP_ROWS, &begin, &end))
        for (uint32_t r = first + begin, n; r < first + end; r += n) {
            const uint8_t* p = packed(c, w, 0, r, &n_left);
            n = first + end - r < n_left ? first + end - r : n_left;
            many_tokens(w, p, quantized, n_tiles, acc, n);
            turn(y + r, w->n_rows, acc, stride, n_tokens, n);
        }
}
