// The elements of an activation, split over threads in pieces of 64, so that one row is split too.
#pragma once
#include "kernels.h"

enum { PIECE = 64 };

// This thread's share of the elements of an activation.
static inline void share_elements(const Call* c, const Operand* o, size_t* begin, size_t* end) {
    size_t n = (size_t)n_rows(c, o) * o->width;
    uint32_t first, last;
    share(c, (uint32_t)((n + PIECE - 1) / PIECE), &first, &last);
    *begin = (size_t)first * PIECE;
    *end = (size_t)last * PIECE < n ? (size_t)last * PIECE : n;
}

// How many of the elements from `begin` on lie in one row, and through *column where they begin in it.
static inline size_t within_row(size_t begin, size_t end, uint32_t width, uint32_t* column) {
    *column = (uint32_t)(begin % width);
    size_t left = width - *column;
    return left < end - begin ? left : end - begin;
}
