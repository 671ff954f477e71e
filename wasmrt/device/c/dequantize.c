// dequantize: n packed weights to f32, bit for bit as gguf/quants.py. embed: the row of each token. For rows, not for products.
#include "kernels.h"
#include "formats.h"

static void f16_row(const uint8_t* p, float* y, uint32_t n) {
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) store(y + i, f16_to_f32(wasm_u32x4_load16x4(p + 2 * i)));
    for (; i < n; i++) y[i] = half_to_float(load_u16(p + 2 * i));
}

static void bf16_row(const uint8_t* p, float* y, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)load_u16(p + 2 * i) << 16;
        __builtin_memcpy(y + i, &bits, 4);
    }
}

// Formats of 32 weights: bit i of `fifth` is the fifth bit of weight i, and a zero of 8 or 16 or a minimum comes off.
static void block_32(const uint8_t* q, uint32_t fifth, int zero_point, float d, float m, float* y) {
    for (int i = 0; i < 16; i++) {
        int low = (q[i] & 15) | (int)(fifth >> i & 1) << 4, high = q[i] >> 4 | (int)(fifth >> (i + 16) & 1) << 4;
        y[i] = (float)(low - zero_point) * d + m;
        y[i + 16] = (float)(high - zero_point) * d + m;
    }
}

static void q8_0_block(const uint8_t* p, float* y) {
    float d = half_to_float(load_u16(p));
    for (int i = 0; i < 32; i++) y[i] = (float)(int8_t)p[2 + i] * d;
}

static void q2_k_block(const uint8_t* p, float* y) {
    float d = half_to_float(load_u16(p + 80)), dmin = half_to_float(load_u16(p + 82));
    for (int i = 0; i < 256; i++) {
        int q = p[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3, s = p[i / 16];
        y[i] = (float)q * (d * (float)(s & 15)) - dmin * (float)(s >> 4);
    }
}

static void q3_k_block(const uint8_t* p, float* y) {
    float d = half_to_float(load_u16(p + 108));
    int8_t s[16];
    store(s, wasm_i8x16_sub(q3_scales(p + 96), wasm_i8x16_const_splat(32)));
    for (int i = 0; i < 256; i++) {
        int q = (p[32 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) | (p[i % 32] >> (i / 32) & 1) << 2;
        y[i] = (float)(q - 4) * (d * (float)s[i / 16]);
    }
}

// Q4_K and Q5_K: `fifth` is where the fifth bits lie, or null.
static void q45_k_block(const uint8_t* p, const uint8_t* fifth, const uint8_t* low, float* y) {
    float d = half_to_float(load_u16(p)), dmin = half_to_float(load_u16(p + 2));
    v128 scales, mins;
    int16_t s[8], m[8];
    k_scales(load(p), &scales, &mins);
    store(s, scales);
    store(m, mins);
    for (int i = 0; i < 256; i++) {
        int q = low[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
        if (fifth) q |= (fifth[i % 32] >> (i / 32) & 1) << 4;
        y[i] = (float)q * (d * (float)s[i / 32]) - dmin * (float)m[i / 32];
    }
}

static void q6_k_block(const uint8_t* p, float* y) {
    float d = half_to_float(load_u16(p + 208));
    for (int i = 0; i < 256; i++) {
        int half = i / 128, low = p[half * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        int q = low | (p[128 + half * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) << 4;
        y[i] = (float)(q - 32) * (d * (float)(int8_t)p[192 + i / 16]);
    }
}

void dequantize(uint32_t type, const uint8_t* p, float* y, uint32_t n) {
    uint32_t blocks = n / 32, super = n / 256;
    switch (type) {
        case F32: __builtin_memcpy(y, p, 4 * (size_t)n); break;
        case F16: f16_row(p, y, n); break;
        case BF16: bf16_row(p, y, n); break;
        case Q4_0:
            for (uint32_t b = 0; b < blocks; b++, p += Q4_0_BYTES, y += 32)
                block_32(p + 2, 0, 8, half_to_float(load_u16(p)), -0.0f, y);
            break;
        case Q4_1:
            for (uint32_t b = 0; b < blocks; b++, p += Q4_1_BYTES, y += 32)
                block_32(p + 4, 0, 0, half_to_float(load_u16(p)), half_to_float(load_u16(p + 2)), y);
            break;
        case Q5_0:
            for (uint32_t b = 0; b < blocks; b++, p += Q5_0_BYTES, y += 32)
                block_32(p + 6, load_u32(p + 2), 16, half_to_float(load_u16(p)), -0.0f, y);
            break;
        case Q5_1:
            for (uint32_t b = 0; b < blocks; b++, p += Q5_1_BYTES, y += 32)
                block_32(p + 8, load_u32(p + 4), 0, half_to_float(load_u16(p)), half_to_float(load_u16(p + 2)), y);
            break;
        case Q8_0:
            for (uint32_t b = 0; b < blocks; b++, p += Q8_0_BYTES, y += 32) q8_0_block(p, y);
            break;
        case Q2_K:
            for (uint32_t b = 0; b < super; b++, p += Q2_K_BYTES, y += 256) q2_k_block(p, y);
            break;
        case Q3_K:
            for (uint32_t b = 0; b < super; b++, p += Q3_K_BYTES, y += 256) q3_k_block(p, y);
            break;
        case Q4_K:
            for (uint32_t b = 0; b < super; b++, p += Q4_K_BYTES, y += 256) q45_k_block(p, 0, p + 16, y);
            break;
        case Q5_K:
            for (uint32_t b = 0; b < super; b++, p += Q5_K_BYTES, y += 256) q45_k_block(p, p + 16, p + 48, y);
            break;
        case Q6_K:
            for (uint32_t b = 0; b < super; b++, p += Q6_K_BYTES, y += 256) q6_k_block(p, y);
            break;
        default:
            if (!dequantize_iq(type, p, y, n)) __builtin_trap();  // the host lets no other format through
    }
}

const float* small_f32(const Call* c, const Operand* o, float* room) {
    const Weight* w = weight(c, o);
    uint32_t n_left;
    if (w->type == F32 && w->n_entries == 1) return (const float*)packed(c, w, 0, 0, &n_left);
    for (uint32_t r = 0; r < w->n_rows; r++) dequantize(w->type, packed(c, w, 0, r, &n_left), room + (size_t)r * w->n, w->n);
    return room;
}

// embed: row `token` of w for each token. Rows are split over threads.
void embed(const Call* c) {
    const Weight* w = weight(c, &c->op->in[0]);
    const int32_t* tokens = at(c->team->ids);
    float* y = values(c, &c->op->out[0]);
    uint32_t begin, end, n_left;
    share(c, c->team->n_tokens, &begin, &end);
    for (uint32_t t = begin; t < end; t++)
        dequantize(w->type, packed(c, w, 0, (uint32_t)tokens[t], &n_left), y + (size_t)t * w->n, w->n);
}
