// columns: of each group of `group` columns of x the n from `start` on
// concat: of each group of columns x's, then y's
// add_position: row t of x plus row pos + t of w
// temper: row t of x times 1 + scale * log(1 + floor((pos + t + offset) / length)), the factor in double
//   x, y, out: f32 (T, any n); w: packed (positions, n). Elements are split over threads (pieces.h), of add_position rows.
#include "pieces.h"
#include "mathf.h"

static void copy(float* out, const float* x, size_t n) { __builtin_memcpy(out, x, n * sizeof(float)); }

void columns(const Call* c) {
    const Operand* out_at = &c->op->out[0];
    uint32_t group = (uint32_t)c->op->params[0], start = (uint32_t)c->op->params[1], n = (uint32_t)c->op->params[2], column;
    const float* x = values(c, &c->op->in[0]);
    float* out = values(c, out_at);
    size_t begin, end, some;
    share_elements(c, out_at, &begin, &end);
    for (; begin < end; begin += some) {
        some = within_row(begin, end, n, &column);
        copy(out + begin, x + begin / n * group + start + column, some);
    }
}

void concat(const Call* c) {
    const Operand* out_at = &c->op->out[0];
    uint32_t n_x = (uint32_t)c->op->params[0], n_y = (uint32_t)c->op->params[1], column;
    const float *x = values(c, &c->op->in[0]), *y = values(c, &c->op->in[1]);
    float* out = values(c, out_at);
    size_t begin, end, some;
    share_elements(c, out_at, &begin, &end);
    for (; begin < end; begin += some) {
        size_t group = begin / (n_x + n_y);
        some = within_row(begin, end, n_x + n_y, &column);
        if (column < n_x) {
            some = some < n_x - column ? some : n_x - column;
            copy(out + begin, x + group * n_x + column, some);
        } else {
            copy(out + begin, y + group * n_y + column - n_x, some);
        }
    }
}

void add_position(const Call* c) {
    const Operand* x_at = &c->op->in[0];
    const Weight* w = weight(c, &c->op->in[1]);
    uint32_t n = x_at->width, begin, end, n_left;
    share(c, n_rows(c, x_at), &begin, &end);
    for (uint32_t t = begin; t < end; t++) {
        const float* x = values(c, x_at) + (size_t)t * n;
        float *out = values(c, &c->op->out[0]) + (size_t)t * n, *row = row_room(c);
        dequantize(w->type, packed(c, w, 0, c->team->pos + t, &n_left), row, n);
        for (uint32_t i = 0; i < n; i++) out[i] = x[i] + row[i];
    }
}

void temper(const Call* c) {
    const Operand* x_at = &c->op->in[0];
    double length = c->op->params[0], scale = c->op->params[1], offset = c->op->params[2];
    const float* x = values(c, x_at);
    float* out = values(c, &c->op->out[0]);
    size_t begin, end, some;
    uint32_t column;
    share_elements(c, x_at, &begin, &end);
    for (; begin < end; begin += some) {
        some = within_row(begin, end, x_at->width, &column);
        double position = (double)(c->team->pos + begin / x_at->width) + offset;
        float factor = (float)(1 + scale * log_f64(1 + __builtin_floor(position / length)));
        for (size_t i = begin; i < begin + some; i++) out[i] = x[i] * factor;
    }
}
