// causal_conv: y[t, i] = sum over j of w[i, j] * x[t - taps + 1 + j, i]; the window holds the rows before x and is moved on.
//   x, y: f32 (T, n), w: n rows of taps in F32, F16 or BF16, window: f32 (taps - 1, n). Channels are split over threads, 16 at
//   once, which are a cache line. Products are added in the order of j.
#include "kernels.h"

enum { CHANNELS = 16, TAPS = 8 };  // taken at once; more taps than TAPS are added to what the first gave

typedef struct {
    float* y;
    const float *x, *window;
    uint32_t width, n_taps;
} Rows;

// Row p of the window followed by x, from channel i on.
static inline const float* past(const Rows* r, uint32_t p, uint32_t i) {
    uint32_t before = r->n_taps - 1;
    return (p < before ? r->window + (size_t)p * r->width : r->x + (size_t)(p - before) * r->width) + i;
}

// Add taps first .. first + n of channels i .. i + n_channels. w: one row of CHANNELS weights a tap.
static void add_taps(
    const Rows* r, uint32_t n_tokens, float w[][CHANNELS], uint32_t first, uint32_t n, uint32_t i, uint32_t n_channels
) {
    for (uint32_t t = 0; t < n_tokens; t++) {
        float* y = r->y + (size_t)t * r->width + i;
        uint32_t k = 0;
        for (; k + 4 <= n_channels; k += 4) {
            v128 sum = first ? load(y + k) : zero();
            for (uint32_t j = 0; j < n; j++)
                sum = wasm_f32x4_add(sum, wasm_f32x4_mul(load(past(r, t + first + j, i + k)), load(&w[j][k])));
            store(y + k, sum);
        }
        for (; k < n_channels; k++) {
            float sum = first ? y[k] : 0;
            for (uint32_t j = 0; j < n; j++) sum += *past(r, t + first + j, i + k) * w[j][k];
            y[k] = sum;
        }
    }
}

void causal_conv(const Call* c) {
    const Operand* x_at = &c->op->in[0];
    const Weight* w = weight(c, &c->op->in[1]);
    float *window = state(c, &c->op->out[1]), tile[TAPS][CHANNELS], row[TAPS];
    const Rows r = {values(c, &c->op->out[0]), values(c, x_at), window, x_at->width, w->n};
    uint32_t n_tokens = n_rows(c, x_at), element = w->row_bytes / w->n, begin, end, n_left;
    share(c, (r.width + CHANNELS - 1) / CHANNELS, &begin, &end);
    for (uint32_t i = begin * CHANNELS; i < end * CHANNELS && i < r.width; i += CHANNELS) {
        uint32_t n_channels = r.width - i < CHANNELS ? r.width - i : CHANNELS;
        for (uint32_t first = 0; first < w->n; first += TAPS) {
            uint32_t n = w->n - first < TAPS ? w->n - first : TAPS;
            for (uint32_t k = 0; k < n_channels; k++) {
                dequantize(w->type, packed(c, w, 0, i + k, &n_left) + (size_t)first * element, row, n);
                for (uint32_t j = 0; j < n; j++) tile[j][k] = row[j];
            }
            add_taps(&r, n_tokens, tile, first, n, i, n_channels);
        }
        // Upwards: a row that is still to be read lies above the one written.
        for (uint32_t p = 0; p + 1 < w->n; p++)
            __builtin_memcpy(window + (size_t)p * r.width + i, past(&r, n_tokens + p, i), n_channels * sizeof(float));
    }
}
