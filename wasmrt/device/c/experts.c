// expert_matmul: token t's rows through the matrix of each of its experts.
//   w: packed (experts, m, n), x: f32 (T, n), or (T, n_used * n) where each expert has rows of its own; y: f32 (T, n_used * m).
//   Of a partial run only the pairs whose expert is in memory: the others' rows stay as they are.
//   A pair is a token and one of its experts. Few pairs an expert: one by one (rows.h). Many: those of an expert come together
//   in tiles (tiles.h), so that its weights are unpacked once for eight of them. Bit for bit the same.
#include "matmul.h"

// Many pairs share an expert, on average. Below this the places that stay empty cost more than unpacking once saves.
static int are_tiled(uint32_t n_pairs, uint32_t n_experts) { return n_pairs >= 4 * n_experts; }

// Pairs by expert: expert e's are in tiles first[e] to first[e + 1], whose places are in order[]. Every thread makes its own.
static void group(const int32_t* experts, uint32_t n_pairs, uint32_t n_experts, uint32_t* first, uint32_t* order) {
    for (uint32_t e = 0; e <= n_experts; e++) first[e] = 0;
    for (uint32_t i = 0; i < n_pairs; i++) first[experts[i] + 1]++;
    for (uint32_t e = 0; e < n_experts; e++) first[e + 1] = first[e] + (first[e + 1] + TILE_TOKENS - 1) / TILE_TOKENS;
    for (uint32_t i = 0; i < first[n_experts] * TILE_TOKENS; i++) order[i] = NOBODY;
    for (uint32_t i = 0; i < n_pairs; i++) {
        uint32_t* place = order + (size_t)first[experts[i]] * TILE_TOKENS;
        while (*place != NOBODY) place++;
        *place = i;
    }
}

static void by_tiles(
    const Call* c, const Weight* w, const float* x, const int32_t* experts, float* y, uint32_t n_pairs, uint32_t per_x
) {
    uint32_t *first = (uint32_t*)(scratch(c) + c->team->order_at), *order = first + w->n_experts + 1;
    uint32_t groups = (w->n_rows + GROUP_ROWS - 1) / GROUP_ROWS, piece, last, n_left, kind = quantized_kind(w->type);
    float* acc = (float*)(scratch(c) + c->team->acc_at);
    group(experts, n_pairs, w->n_experts, first, order);
    if (!is_quantized(c)) {
        quantize_tiles(c, kind, x, w->n, first[w->n_experts] * TILE_TOKENS, order, per_x);
        if (meet(c)) return;
    }
    while (take(c, w->n_experts * groups, 1, &piece, &last)) {
        uint32_t e = piece / groups, r = piece % groups * GROUP_ROWS, n_tiles = first[e + 1] - first[e];
        if (!n_tiles || !has_expert(c, w, e)) continue;
        uint32_t n = w->n_rows - r < GROUP_ROWS ? w->n_rows - r : GROUP_ROWS;
        size_t stride = (size_t)n_tiles * TILE_TOKENS;
        const uint8_t* tiles = (const uint8_t*)at(c->team->quantized) + first[e] * tile_bytes(kind, w->n);
        many_tokens(w, packed(c, w, e, r, &n_left), tiles, n_tiles, acc, n);
        for (uint32_t t = 0; t < stride; t++) {
            uint32_t pair = order[(size_t)first[e] * TILE_TOKENS + t];
            for (uint32_t i = 0; pair != NOBODY && i < n; i++) y[(size_t)pair * w->n_rows + r + i] = acc[i * stride + t];
        }
    }
}

static void by_rows(
    const Call* c, const Weight* w, const float* x, const int32_t* experts, float* y, uint32_t n_pairs, uint32_t per_x
) {
    uint32_t kind = quantized_kind(w->type), n_left, piece, last;
    if (kind && !is_quantized(c)) {
        quantize_rows(c, kind, x, w->n, n_pairs / per_x);
        if (meet(c)) return;
    }
    size_t x_bytes = kind ? row_bytes(kind, w->n) : 4 * (size_t)w->n;
    const uint8_t* x_rows = kind ? at(c->team->quantized) : (const uint8_t*)x;
    // Pieces of work: a few rows of one of the chosen experts, for all tokens that chose it.
    uint32_t* distinct = (uint32_t*)(scratch(c) + c->team->order_at);
    uint32_t n_distinct = 0, grain = grain_of(w), pieces = (w->n_rows + grain - 1) / grain;
    for (uint32_t e = 0; e < w->n_experts; e++)
        for (uint32_t i = 0; i < n_pairs; i++)
            if ((uint32_t)experts[i] == e && has_expert(c, w, e)) {
                distinct[n_distinct++] = e;
                break;
            }
    while (take_near(c, n_distinct * pieces, 1, &piece, &last)) {
        uint32_t e = distinct[piece / pieces], begin = piece % pieces * grain;
        uint32_t n = w->n_rows - begin < grain ? w->n_rows - begin : grain;
        const uint8_t* p = packed(c, w, e, begin, &n_left);
        for (uint32_t i = 0; i < n_pairs; i++)
            if ((uint32_t)experts[i] == e)
                few_tokens(c, w, p, x_rows + i / per_x * x_bytes, y + (size_t)i * w->n_rows + begin, n);
    }
}

void expert_matmul(const Call* c) {
    const Operand *in = &c->op->in[1], *chosen = &c->op->in[2];
    const Weight* w = weight(c, &c->op->in[0]);
    uint32_t n_pairs = n_rows(c, chosen) * chosen->width;
    uint32_t per_x = in->width == w->n ? chosen->width : 1;  // pairs that share a row of x
    int tiled = quantized_kind(w->type) && are_tiled(n_pairs, w->n_experts);
    const int32_t* experts = (const int32_t*)values(c, chosen);
    (tiled ? by_tiles : by_rows)(c, w, values(c, in), experts, values(c, &c->op->out[0]), n_pairs, per_x);
}
