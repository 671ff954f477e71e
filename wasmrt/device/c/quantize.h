// The x of a matmul, quantized to 8 bits: q = round(x / d), d = max|x| / 127 over a block; sums of q serve the minimums that
// formats have.
//
// Two layouts of the same numbers. Rows (few tokens): one row after another, block by block. Tiles (many): eight tokens
// together, so that a vector holds four bytes of each of four tokens, and one product serves four; tokens past T are zero.
// Three kinds, by what the weight format wants: of 256 with sums of 16 and 32 (K-quants), of 32 with its sum, of 32 widened.
#pragma once
#include "kernels.h"

#define TILE_TOKENS 8
#define MIN_TILED 6  // fewer tokens than this are taken one by one

enum { NOT_QUANTIZED, OF_256, OF_32, OF_32_WIDE };

typedef struct { int8_t q[256]; int16_t sums_16[16], sums_32[8]; float d; uint8_t pad[12]; } Block256;
typedef struct { int8_t q[32]; float d; int32_t sum; uint8_t pad[8]; } Block32;
typedef struct { int16_t q[32]; float d; uint8_t pad[12]; } Block32Wide;

// [.][half][lane]: token 4 * half + lane. Sums come in pairs of neighbours, as a multiply-add of i16 wants them.
typedef struct {
    int8_t q[64][2][4][4];
    int16_t sums_16[8][2][4][2], sums_32[4][2][4][2];
    float d[2][4];
    uint8_t pad[32];
} Tile256;
typedef struct { int8_t q[8][2][4][4]; float d[2][4]; int32_t sum[2][4]; } Tile32;
typedef struct { int16_t q[16][2][4][2]; float d[2][4]; } Tile32Wide;

// 256 elements of a row, and of a tile.
_Static_assert(sizeof(Block256) == 320 && sizeof(Tile256) == 2496, "device/binary.py OF_256");
_Static_assert(8 * sizeof(Block32) == 384 && 8 * sizeof(Tile32) == 2560, "device/binary.py OF_32");
_Static_assert(8 * sizeof(Block32Wide) == 640 && 8 * sizeof(Tile32Wide) == 4352, "device/binary.py OF_32_WIDE");

static inline uint32_t quantized_kind(uint32_t type) {
    return type >= 10 && type <= 14 ? OF_256 : type == 8 ? OF_32_WIDE : type >= 2 && type <= 7 ? OF_32 : NOT_QUANTIZED;
}

static inline int is_tiled(uint32_t n_tokens) { return n_tokens >= MIN_TILED; }

// Quantize n_tokens rows of x, n elements each, into team.quantized. All threads call it and meet after it.
void quantize(const Call* c, uint32_t kind, const float* x, uint32_t n_tokens, uint32_t n, int tiled);

// The same by tiles, of what `order` names: place i is for row order[i] / per_x of x, or empty (~0).
void quantize_grouped(
    const Call* c, uint32_t kind, const float* x, uint32_t n, const uint32_t* order, uint32_t n_tiles, uint32_t per_x
);

// Bytes of a tile of rows of n elements.
static inline size_t tile_row_bytes(uint32_t kind, uint32_t n) {
    return kind == OF_256 ? n / 256 * sizeof(Tile256) : n / 32 * (kind == OF_32 ? sizeof(Tile32) : sizeof(Tile32Wide));
}
