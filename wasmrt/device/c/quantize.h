// The x of a matmul, quantized to 8 bits: q = round(x / d), d = max|x| / 127 over a block; sums of q serve the minimums that
// formats have.
//
// Two layouts of the same numbers. Rows (few tokens): one row after another, block by block. Tiles (many): eight tokens
// together, so that a vector holds four bytes of each of four tokens, and one product serves four; tokens past T are zero.
// Four kinds, by what the weight format wants: of 256 with sums of 16 and 32 (K-quants), of 256 with tiles of 16 bits (signed
// weights), of 32 with its sum, of 32 widened.
#pragma once
#include "formats.h"
#include "kernels.h"

#define TILE_TOKENS 8
#define MIN_TILED 6  // fewer tokens than this are taken one by one

enum { NOT_QUANTIZED, OF_256, OF_256_WIDE, OF_32, OF_32_WIDE };

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
typedef struct { int16_t q[128][2][4][2]; float d[2][4]; } Tile256Wide;

// 256 elements of a row, and of a tile.
_Static_assert(sizeof(Block256) == 320 && sizeof(Tile256) == 2496, "device/binary.py OF_256");
_Static_assert(sizeof(Tile256Wide) == 4128, "device/binary.py OF_256_WIDE");
_Static_assert(8 * sizeof(Block32) == 384 && 8 * sizeof(Tile32) == 2560, "device/binary.py OF_32");
_Static_assert(8 * sizeof(Block32Wide) == 640 && 8 * sizeof(Tile32Wide) == 4352, "device/binary.py OF_32_WIDE");

static inline uint32_t quantized_kind(uint32_t type) {
    if (type == F32 || type == F16 || type == BF16) return NOT_QUANTIZED;
    if (type == Q8_0 || type == IQ4_NL) return OF_32_WIDE;
    if (type < Q2_K || type == MXFP4) return OF_32;
    return type <= Q6_K ? OF_256 : OF_256_WIDE;
}

// Elements of a block of x, and of a weight's.
static inline uint32_t block_of(uint32_t kind) { return kind <= OF_256_WIDE ? 256 : 32; }

// Bytes of a row of n elements, and of a tile of such rows.
static inline size_t row_bytes(uint32_t kind, uint32_t n) {
    size_t block = kind <= OF_256_WIDE ? sizeof(Block256) : kind == OF_32 ? sizeof(Block32) : sizeof(Block32Wide);
    return n / block_of(kind) * block;
}
static inline size_t tile_bytes(uint32_t kind, uint32_t n) {
    size_t of_256 = kind == OF_256 ? sizeof(Tile256) : sizeof(Tile256Wide);
    size_t of_32 = kind == OF_32 ? sizeof(Tile32) : sizeof(Tile32Wide);
    return n / block_of(kind) * (kind <= OF_256_WIDE ? of_256 : of_32);
}

static inline int is_tiled(uint32_t n_tokens) { return n_tokens >= MIN_TILED; }

// Quantize n_rows rows of x, n elements each, into team.quantized. All threads call it and meet after it.
void quantize_rows(const Call* c, uint32_t kind, const float* x, uint32_t n, uint32_t n_rows);

// The same by tiles: place i is for row i of x, or, where there is an order, for row order[i] / per_x.
#define NOBODY ~0u  // in an order, a place that stays empty
void quantize_tiles(
    const Call* c, uint32_t kind, const float* x, uint32_t n, uint32_t n_places, const uint32_t* order, uint32_t per_x
);
