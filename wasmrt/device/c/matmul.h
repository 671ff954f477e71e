// What matmul, head_matmul and expert_matmul share: a few rows of one entry times one token, or times many.
#pragma once
#include "quantize.h"

// Rows that a thread takes at once: some 32 KiB of weights, so that the end comes for all threads at about the same time.
uint32_t grain_of(const Weight* w);

// n_rows rows from p on times one token; x: f32 or quantized.
void few_tokens(const Call* c, const Weight* w, const uint8_t* p, const void* x, float* y, uint32_t n_rows);

// At most GROUP_ROWS rows from p on times n_tiles tiles. acc: f32 (GROUP_ROWS, TILE_TOKENS * n_tiles), filled.
#define GROUP_ROWS 8  // rows that are unpacked together, and pass over the tiles together
void many_tokens(const Weight* w, const uint8_t* p, const void* x, uint32_t n_tiles, float* acc, uint32_t n_rows);

// acc (n rows, n_tokens of stride) to y (n_tokens, n of m): a token's rows are written together, as they share a cache line.
static inline void turn(float* restrict y, size_t m, const float* restrict acc, size_t stride, uint32_t n_tokens, uint32_t n) {
    for (uint32_t t = 0; t < n_tokens; t++, y += m, acc++)
        for (uint32_t i = 0; i < n; i++) y[i] = acc[i * stride];
}
