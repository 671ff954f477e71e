// What matmul and expert_matmul share: a few rows of one entry times one token, or times many.
#pragma once
#include "quantize.h"

// Rows that a thread takes at once: some 32 KiB of weights, so that the end comes for all threads at about the same time.
uint32_t grain_of(const Weight* w);

// n_rows rows from p on times one token; x: f32 or quantized.
void few_tokens(const Call* c, const Weight* w, const uint8_t* p, const void* x, float* y, uint32_t n_rows);

// At most GROUP_ROWS rows from p on times n_tiles tiles. acc: f32 (GROUP_ROWS, TILE_TOKENS * n_tiles), filled.
#define GROUP_ROWS 8  // rows that are unpacked together, and pass over the tiles together
void many_tokens(const Weight* w, const uint8_t* p, const void* x, uint32_t n_tiles, float* acc, uint32_t n_rows);
