// What all kernels share: the binary form of programs, the team of threads, and access to operands.
//
// The Python side of the structs is device/binary.py (programs) and device/cpu.py; VERSION changes with any of them.
// Addresses are 64-bit in every build, so that one layout serves wasm32 and wasm64.
//
// Bit-identity: the three builds, any number of threads and any split of a prompt give the same bits. So rows and heads are
// split over threads, never sums; integer sums may be taken in any order, f32 sums are taken in one; nothing is contracted or
// relaxed but integer dots whose second operand is in 0..127.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "simd.h"

#define VERSION 3u
#define TILE 64  // keys that attention takes at once; a cache begins a new block of keys every TILE positions

typedef struct {
    uint8_t space, rows, dtype, unused;  // Space, 0 "T" or 1 "out", 0 f32 or 1 i32
    uint32_t index, width;
} Operand;

enum { WEIGHT, ACTIVATION, KV, STATE, ABSENT };

typedef struct {
    uint32_t kernel, flags;
    Operand out[2], in[6];  // what an op mutates (cache, state) comes first in out, or after its one output
    double params[9];
} Op;

enum { QUANTIZED = 1 };  // Op.flags: the product before, if of the same run, has left this x quantized as this op wants it

typedef struct {
    uint32_t type;  // ggml's id of the format
    uint32_t first, n_entries, rows_per_entry;
    uint32_t n, n_rows, n_experts, row_bytes;  // n_experts: 0 unless `route` names its entries
} Weight;

typedef struct {
    uint32_t version, n_ops, n_weights, constants;  // offsets in bytes from the start of the program
    uint32_t ops, weights, unused[2];
} Program;

// A segment: where its program, address table, arena slots, cache buffers and recurrent states lie.
typedef struct {
    uint64_t program, table, slots, kv, state;
} Binding;

// A slot of the arena. row_bytes: 0, or what a row takes of a slot that keeps the rows of a whole prompt (Team.row).
typedef struct {
    uint64_t address, row_bytes;
} Slot;

// Team.control: the host writes its first byte, abort_team its second, so that neither takes back what the other said.
enum { RUN, CANCEL, ABORT = 256 };
enum { DONE, CANCELLED, ABORTED, MISSING, BAD_PROGRAM, ABSENT_WEIGHT };  // Team.status

// One team of threads with one memory: everything that a run needs, and what the threads meet over.
typedef struct {
    uint32_t control, pad0[15];                 // each word that threads write has a cache line of its own
    uint32_t job, pad1[15];                     // a new number wakes the workers
    uint32_t arrived, pad2[15];
    uint32_t phase, sleepers, leave, pad3[13];  // phase: counts the barriers
    uint32_t next, pad4[15];                    // the next piece of work to take
    uint32_t n_threads, f16_cache, context;     // context: positions that a cache holds, a multiple of TILE
    uint32_t n_tokens, pos, n_out;              // the pass
    uint32_t n_bindings, first_op, end_op;      // the run: ops first_op.. of the first segment to end_op of the last
    uint32_t status, segment, op;               // where and why it stopped; segment: while it runs, where it is
    uint64_t ids, bindings;                     // i32 (n_tokens); u64 (n_bindings): addresses of Bindings
    uint64_t quantized;                         // the x of a matmul, quantized (quantize.h)
    uint64_t cursors;                           // u32 of each thread, a cache line apart: how much of its share is taken
    uint64_t scratch, scratch_bytes;            // each thread's own: scratch + thread * scratch_bytes, split as below
    uint32_t row_at, acc_at, attention_at, order_at;  // where its parts begin
    uint32_t row, partial;  // the pass's first row in slots that keep rows; whether absent experts are left for another run
} Team;

// The sizes that the Python side has too.
_Static_assert(sizeof(Operand) == 12, "device/binary.py OPERAND");
_Static_assert(sizeof(Op) == 176, "device/binary.py OP");
_Static_assert(sizeof(Weight) == 32, "device/binary.py WEIGHT");
_Static_assert(sizeof(Program) == 32, "device/binary.py HEADER");
_Static_assert(sizeof(Binding) == 40, "device/cpu.py BINDING");
_Static_assert(offsetof(Team, n_threads) == 320, "device/cpu.py TEAM_TAIL_AT");
_Static_assert(offsetof(Team, phase) == 192 && offsetof(Team, next) == 256 && offsetof(Team, cursors) == 392, "web/cpu.js");
_Static_assert(sizeof(Slot) == 16, "device/cpu.py SLOT");
_Static_assert(sizeof(Team) == 440, "device/cpu.py TEAM_BYTES");

// One thread's view of one op.
typedef struct {
    Team* team;
    const Program* program;
    const Op* op;
    const Binding* binding;
    uint32_t thread;
    uint32_t has_quantized;  // in this run: team.quantized may be another pass's before
} Call;

// Operands

static inline void* at(uint64_t address) { return (void*)(uintptr_t)address; }
static inline uint64_t entry(uint64_t list, uint32_t i) { return ((const uint64_t*)at(list))[i]; }

static inline uint32_t n_rows(const Call* c, const Operand* o) { return o->rows ? c->team->n_out : c->team->n_tokens; }

// An activation's first row; its rows follow one another, o->width elements each.
static inline float* values(const Call* c, const Operand* o) {
    const Slot* slot = (const Slot*)at(c->binding->slots) + o->index;
    return at(slot->address + c->team->row * slot->row_bytes);
}

// The buffer of keys (0) or values (1), or a recurrent state.
static inline void* cache(const Call* c, const Operand* o) { return at(entry(c->binding->kv, o->index)); }
static inline float* state(const Call* c, const Operand* o) { return at(entry(c->binding->state, o->index - 3)); }

static inline const Weight* weight(const Call* c, const Operand* o) {
    return (const Weight*)((const uint8_t*)c->program + c->program->weights) + o->index;
}

// Packed row `row` of a weight, and through *n_left how many rows follow it in the same entry, itself included.
static inline const uint8_t* packed(const Call* c, const Weight* w, uint32_t expert, uint32_t row, uint32_t* n_left) {
    uint32_t piece = row / w->rows_per_entry, within = row - piece * w->rows_per_entry;
    uint32_t left = w->rows_per_entry - within;
    *n_left = left < w->n_rows - row ? left : w->n_rows - row;
    return (const uint8_t*)at(entry(c->binding->table, w->first + expert + piece)) + (size_t)within * w->row_bytes;
}

// Whether an expert's matrix is in memory. One that is not is computed by another run, if this one is partial.
static inline int has_expert(const Call* c, const Weight* w, uint32_t expert) { return entry(c->binding->table, w->first + expert) != 0; }

static inline int is_quantized(const Call* c) { return c->op->flags & QUANTIZED && c->has_quantized; }

static inline uint8_t* scratch(const Call* c) { return at(c->team->scratch + c->thread * c->team->scratch_bytes); }

// A small weight as f32, its rows one after another: in place if it is F32 in one piece, else in `room`, which is the thread's
// own for row_f32 (row_at; the next call overwrites it).
const float* small_f32(const Call* c, const Operand* o, float* room);
static inline float* row_room(const Call* c) { return (float*)(scratch(c) + c->team->row_at); }
static inline const float* row_f32(const Call* c, const Operand* o) { return small_f32(c, o, row_room(c)); }

// Numbers of a small weight.
static inline size_t n_numbers(const Weight* w) { return (size_t)w->n * w->n_rows; }

// n packed weights of one row to f32, as gguf/quants.py defines the format.
void dequantize(uint32_t type, const uint8_t* packed, float* out, uint32_t n);

// Threads

// Meet all others; what was written before is seen after. Nonzero: leave the op at once (cancelled or aborted).
int meet(const Call* c);

// Take the next `grain` of n pieces of work; zero when none is left, or when the run is to end early. Starts anew after meet().
int take(const Call* c, uint32_t n, uint32_t grain, uint32_t* begin, uint32_t* end);

// The same, but a thread goes through its own share of n from start to end, `grain` by grain, and then helps the others. For
// what is read from memory: a processor reads ahead where addresses go on, so many short pieces in turns are a third slower.
int take_near(const Call* c, uint32_t n, uint32_t grain, uint32_t* begin, uint32_t* end);

// This thread's fixed share of n.
static inline void share(const Call* c, uint32_t n, uint32_t* begin, uint32_t* end) {
    uint32_t threads = c->team->n_threads;
    *begin = (uint32_t)((uint64_t)n * c->thread / threads);
    *end = (uint32_t)((uint64_t)n * (c->thread + 1) / threads);
}

// Kernels, in the order of program/ops.py KERNELS. The meaning of each is the function of that name in device/reference.py.
// All threads call each; there is a meeting after each.
typedef void Kernel(const Call* c);
Kernel embed, rms_norm, matmul, add, mul, swiglu, rope, store_kv, attention, last_rows, route, expert_matmul, expert_mul,
    expert_sum, causal_conv, layer_norm, softmax, unary, geglu, swiglu_oai, columns, concat, add_position, temper, head_matmul,
    expert_add, expert_spread, ssm_scan, delta_net, div;
