#include "quantize.h"

// q = round(x * (127 / max|x|)), n of them; returns d. A block with an infinity or NaN gets d = NaN.
static inline float round_block(const float* x, uint32_t n, int8_t* q) {
    v128 top = zero();
    // max() of wasm hands NaN on, unlike pmax: a NaN must not vanish here.
    for (uint32_t i = 0; i < n; i += 4) top = wasm_f32x4_max(top, wasm_f32x4_abs(load(x + i)));
    top = wasm_f32x4_max(top, wasm_i32x4_shuffle(top, top, 2, 3, 0, 1));
    top = wasm_f32x4_max(top, wasm_i32x4_shuffle(top, top, 1, 0, 3, 2));
    float most = wasm_f32x4_extract_lane(top, 0);
    v128 scale = splat_f32(most > 0x1p-120f ? 127.0f / most : 0.0f);
    for (uint32_t i = 0; i < n; i += 16) {
        v128 a = wasm_i32x4_trunc_sat_f32x4(wasm_f32x4_nearest(wasm_f32x4_mul(load(x + i), scale)));
        v128 b = wasm_i32x4_trunc_sat_f32x4(wasm_f32x4_nearest(wasm_f32x4_mul(load(x + i + 4), scale)));
        v128 c = wasm_i32x4_trunc_sat_f32x4(wasm_f32x4_nearest(wasm_f32x4_mul(load(x + i + 8), scale)));
        v128 d = wasm_i32x4_trunc_sat_f32x4(wasm_f32x4_nearest(wasm_f32x4_mul(load(x + i + 12), scale)));
        store(q + i, wasm_i8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4(a, b), wasm_i16x8_narrow_i32x4(c, d)));
    }
    return most <= 0x1.fffffep127f ? most / 127.0f : __builtin_nanf("");
}

static inline v128 sum_pairs(v128 q) { return wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_extadd_pairwise_i8x16(q)); }

static void block_256(const float* x, Block256* b) {
    b->d = round_block(x, 256, b->q);
    for (int i = 0; i < 16; i += 4) {
        v128 s = sum_each(sum_pairs(load(b->q + 16 * i)), sum_pairs(load(b->q + 16 * i + 16)),
                          sum_pairs(load(b->q + 16 * i + 32)), sum_pairs(load(b->q + 16 * i + 48)));
        wasm_v128_store64_lane(b->sums_16 + i, wasm_i16x8_narrow_i32x4(s, s), 0);
    }
    for (int i = 0; i < 8; i++) b->sums_32[i] = (int16_t)(b->sums_16[2 * i] + b->sums_16[2 * i + 1]);
}

static void block_32(const float* x, Block32* b) {
    b->d = round_block(x, 32, b->q);
    v128 s = wasm_i32x4_add(sum_pairs(load(b->q)), sum_pairs(load(b->q + 16)));
    b->sum = wasm_i32x4_extract_lane(sum_each(s, s, s, s), 0);
}

static void block_32_wide(const float* x, Block32Wide* b) {
    int8_t q[32];
    b->d = round_block(x, 32, q);
    for (int i = 0; i < 32; i += 8) store(b->q + i, wasm_i16x8_load8x8(q + i));
}

// One token of a tile: its block, dealt out.

static void deal_256(const Block256* b, Tile256* tile, int half, int lane) {
    for (int i = 0; i < 64; i++) __builtin_memcpy(tile->q[i][half][lane], b->q + 4 * i, 4);
    for (int i = 0; i < 8; i++) __builtin_memcpy(tile->sums_16[i][half][lane], b->sums_16 + 2 * i, 4);
    for (int i = 0; i < 4; i++) __builtin_memcpy(tile->sums_32[i][half][lane], b->sums_32 + 2 * i, 4);
    tile->d[half][lane] = b->d;
}

static void deal_256_wide(const Block256* b, Tile256Wide* tile, int half, int lane) {
    for (int i = 0; i < 256; i++) tile->q[i / 2][half][lane][i % 2] = b->q[i];
    tile->d[half][lane] = b->d;
}

static void deal_32(const Block32* b, Tile32* tile, int half, int lane) {
    for (int i = 0; i < 8; i++) __builtin_memcpy(tile->q[i][half][lane], b->q + 4 * i, 4);
    tile->d[half][lane] = b->d;
    tile->sum[half][lane] = b->sum;
}

static void deal_32_wide(const Block32Wide* b, Tile32Wide* tile, int half, int lane) {
    for (int i = 0; i < 16; i++) __builtin_memcpy(tile->q[i][half][lane], b->q + 2 * i, 4);
    tile->d[half][lane] = b->d;
}

static void one_block(uint32_t kind, const float* x, void* rows, size_t i) {
    switch (kind) {
        case OF_256:
        case OF_256_WIDE: block_256(x, (Block256*)rows + i); break;
        case OF_32: block_32(x, (Block32*)rows + i); break;
        default: block_32_wide(x, (Block32Wide*)rows + i);
    }
}

// Eight rows of x, from one block of theirs on; null: none.
static void one_tile(uint32_t kind, const float* const rows[TILE_TOKENS], void* tiles, size_t i) {
    union { Block256 of_256; Block32 of_32; Block32Wide wide; } b;
    for (int t = 0; t < TILE_TOKENS; t++) {
        int half = t / 4, lane = t % 4;
        if (rows[t]) one_block(kind, rows[t], &b, 0);
        else __builtin_memset(&b, 0, sizeof b);
        switch (kind) {
            case OF_256: deal_256(&b.of_256, (Tile256*)tiles + i, half, lane); break;
            case OF_256_WIDE: deal_256_wide(&b.of_256, (Tile256Wide*)tiles + i, half, lane); break;
            case OF_32: deal_32(&b.of_32, (Tile32*)tiles + i, half, lane); break;
            default: deal_32_wide(&b.wide, (Tile32Wide*)tiles + i, half, lane);
        }
    }
}

void quantize_rows(const Call* c, uint32_t kind, const float* x, uint32_t n, uint32_t n_rows) {
    uint32_t block = block_of(kind), begin, end;
    share(c, n_rows * (n / block), &begin, &end);
    for (uint32_t i = begin; i < end; i++) one_block(kind, x + (size_t)i * block, at(c->team->quantized), i);
}

void quantize_tiles(
    const Call* c, uint32_t kind, const float* x, uint32_t n, uint32_t n_places, const uint32_t* order, uint32_t per_x
) {
    uint32_t block = block_of(kind), per_row = n / block, begin, end;
    share(c, (n_places + TILE_TOKENS - 1) / TILE_TOKENS * per_row, &begin, &end);
    for (uint32_t i = begin; i < end; i++) {
        const float* rows[TILE_TOKENS];
        for (uint32_t t = 0; t < TILE_TOKENS; t++) {
            uint32_t place = i / per_row * TILE_TOKENS + t, row = place < n_places ? place : NOBODY;
            if (order) row = order[place] == NOBODY ? NOBODY : order[place] / per_x;
            rows[t] = row == NOBODY ? 0 : x + (size_t)row * n + (size_t)(i % per_row) * block;
        }
        one_tile(kind, rows, at(c->team->quantized), i);
    }
}
