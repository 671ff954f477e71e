// head_matmul: part h of each row of x times matrix h: y[t, h * m + r] = x[t, h * n ..] . w[h, r, :].
//   w: packed (n_heads, m, n), x: f32 (T, n_heads * n), y: f32 (T, n_heads * m). As matmul, with pieces of work that are a few
//   rows of one head: by rows for few tokens, by tiles of a head's parts for many, bit for bit the same.
#include "matmul.h"
#include "floats.h"

// Place i of the tiles of x is token i of a head's: which part of x, of all tokens', that is. Every thread makes its own.
static const uint32_t* tile_order(const Call* c, uint32_t n_tokens, uint32_t n_heads, uint32_t n_tiles) {
    uint32_t *order = (uint32_t*)(scratch(c) + c->team->order_at), n_places = n_tiles * TILE_TOKENS;
    for (uint32_t i = 0; i < n_heads * n_places; i++) {
        uint32_t h = i / n_places, t = i % n_places;
        order[i] = t < n_tokens ? t * n_heads + h : NOBODY;
    }
    return order;
}

void head_matmul(const Call* c) {
    const Operand* in = &c->op->in[1];
    const Weight* w = weight(c, &c->op->in[0]);
    const float* x = values(c, in);
    float* y = values(c, &c->op->out[0]);
    uint32_t n_heads = (uint32_t)c->op->params[0], n_tokens = n_rows(c, in), kind = quantized_kind(w->type);
    uint32_t piece, last, n_left, n_tiles = (n_tokens + TILE_TOKENS - 1) / TILE_TOKENS;
    size_t x_width = in->width, y_width = (size_t)n_heads * w->n_rows, stride = (size_t)n_tiles * TILE_TOKENS;
    int tiled = kind && is_tiled(n_tokens);
    if (kind && !is_quantized(c)) {
        if (tiled)
            quantize_tiles(c, kind, x, w->n, n_heads * n_tiles * TILE_TOKENS, tile_order(c, n_tokens, n_heads, n_tiles), 1);
        else
            quantize_rows(c, kind, x, w->n, n_tokens * n_heads);
        if (meet(c)) return;
    }
    const uint8_t* quantized = at(c->team->quantized);
    float* acc = (float*)(scratch(c) + c->team->acc_at);
    uint32_t grain = tiled ? GROUP_ROWS : grain_of(w), pieces = (w->n_rows + grain - 1) / grain;
    while (take_near(c, n_heads * pieces, 1, &piece, &last)) {
        uint32_t h = piece / pieces, r = piece % pieces * grain, n = w->n_rows - r < grain ? w->n_rows - r : grain;
        const uint8_t* p = packed(c, w, h, r, &n_left);
        float* out = y + (size_t)h * w->n_rows + r;
        if (!kind) {
            float_rows(w, p, x + (size_t)h * w->n, x_width, out, y_width, n, n_tokens, row_room(c));
        } else if (!tiled) {
            for (uint32_t t = 0; t < n_tokens; t++)
                few_tokens(c, w, p, quantized + ((size_t)t * n_heads + h) * row_bytes(kind, w->n), out + t * y_width, n);
        } else {
            many_tokens(w, p, quantized + (size_t)h * n_tiles * tile_bytes(kind, w->n), n_tiles, acc, n);
            turn(out, y_width, acc, stride, n_tokens, n);
        }
    }
}
