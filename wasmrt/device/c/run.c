// run: executes a range of ops over a list of segments, on a team of threads that meet after each op.
//
//   The host calls run() on one thread and keeps work() going on n_threads - 1 others. Inside a run waiters spin; between runs
//   they sleep. The control word is looked at in every meeting and whenever a thread takes work; only the last to arrive at a
//   meeting decides that all leave, so that they leave together. Abort ends all waiting, wherever it is.
#include "quantize.h"

// Rounds of spinning before a waiter sleeps. Waking a sleeper costs 30-70 us, a meeting of spinning threads under 1 us.
#define SPIN 20000
#define SLEEP_NS 50000000ll  // a sleeper looks at the control word this often, should nobody wake it

static Kernel* const KERNELS[] = {
    embed, rms_norm, matmul, add, mul, swiglu, rope, store_kv, attention, last_rows, route, expert_matmul, expert_mul,
    expert_sum, causal_conv, layer_norm, softmax, unary, geglu, swiglu_oai, columns, concat, add_position, temper, head_matmul,
    expert_add, expert_spread, ssm_scan, delta_net, div,
};
enum { N_KERNELS = sizeof KERNELS / sizeof *KERNELS, EMBED = 0, MATMUL = 2, ROUTE = 10, EXPERT_MATMUL = 11, HEAD_MATMUL = 24 };

static inline uint32_t look(const uint32_t* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline int is_aborted(const Team* t) { return look(&t->control) >= ABORT; }

#ifdef PLAIN
static void sleep_on(uint32_t* word, uint32_t seen) { (void)word, (void)seen; }
static void wake(uint32_t* word) { (void)word; }
#else
static void sleep_on(uint32_t* word, uint32_t seen) {
    __builtin_wasm_memory_atomic_wait32((int*)word, (int)seen, SLEEP_NS);
}
static void wake(uint32_t* word) { __builtin_wasm_memory_atomic_notify((int*)word, ~0u); }
#endif

static inline uint32_t* cursor(Team* t, uint32_t thread) { return at(t->cursors + 64 * (uint64_t)thread); }

int meet(const Call* c) {
    Team* t = c->team;
    uint32_t phase = look(&t->phase);
    if (__atomic_add_fetch(&t->arrived, 1, __ATOMIC_ACQ_REL) == t->n_threads) {
        t->arrived = 0;
        t->next = 0;
        for (uint32_t i = 0; i < t->n_threads; i++) *cursor(t, i) = 0;
        t->leave = look(&t->control);
        __atomic_store_n(&t->phase, phase + 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&t->sleepers, __ATOMIC_SEQ_CST)) wake(&t->phase);
        return t->leave != RUN;
    }
    for (uint32_t round = 0; look(&t->phase) == phase; round++) {
        if (is_aborted(t)) return 1;
        if (round < SPIN) continue;
        __atomic_add_fetch(&t->sleepers, 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&t->phase, __ATOMIC_SEQ_CST) == phase) sleep_on(&t->phase, phase);
        __atomic_sub_fetch(&t->sleepers, 1, __ATOMIC_SEQ_CST);
    }
    return t->leave != RUN;
}

int take(const Call* c, uint32_t n, uint32_t grain, uint32_t* begin, uint32_t* end) {
    if (look(&c->team->control) != RUN) return 0;
    *begin = __atomic_fetch_add(&c->team->next, grain, __ATOMIC_RELAXED);
    *end = *begin + grain < n ? *begin + grain : n;
    return *begin < n;
}

int take_near(const Call* c, uint32_t n, uint32_t grain, uint32_t* begin, uint32_t* end) {
    uint32_t threads = c->team->n_threads;
    if (look(&c->team->control) != RUN) return 0;
    for (uint32_t i = 0; i < threads; i++) {
        uint32_t owner = (c->thread + i) % threads;
        uint32_t first = (uint32_t)((uint64_t)n * owner / threads), last = (uint32_t)((uint64_t)n * (owner + 1) / threads);
        if (look(cursor(c->team, owner)) >= last - first) continue;
        *begin = first + __atomic_fetch_add(cursor(c->team, owner), grain, __ATOMIC_RELAXED);
        *end = *begin + grain < last ? *begin + grain : last;
        if (*begin < last) return 1;
    }
    return 0;
}

// Whether an expert that `route` chose is not in memory.
static int lacks_experts(const Call* c) {
    const Operand* chosen = &c->op->out[0];
    const int32_t* experts = (const int32_t*)values(c, chosen);
    uint32_t n = n_rows(c, chosen) * chosen->width;
    const Weight* weights = (const Weight*)((const uint8_t*)c->program + c->program->weights);
    for (uint32_t i = 0; i < c->program->n_weights; i++) {
        if (!weights[i].n_experts) continue;
        for (uint32_t j = 0; j < n; j++)
            if (!entry(c->binding->table, weights[i].first + (uint32_t)experts[j])) return 1;
    }
    return 0;
}

// The ops of one segment from `first` on. All threads come to the same status, and to the same op in *stopped.
static uint32_t run_segment(Call* c, uint32_t first, uint32_t end, uint32_t* stopped) {
    const Op* ops = (const Op*)((const uint8_t*)c->program + c->program->ops);
    for (uint32_t i = first; i < end; i++) {
        *stopped = i;
        c->op = &ops[i];
        KERNELS[c->op->kernel](c);
        if (c->op->kernel == MATMUL || c->op->kernel == EXPERT_MATMUL || c->op->kernel == HEAD_MATMUL)
            c->has_quantized |= quantized_kind(weight(c, &c->op->in[0])->type) != 0;
        if (meet(c)) return is_aborted(c->team) ? ABORTED : CANCELLED;
        *stopped = i + 1;
        if (c->op->kernel == ROUTE && lacks_experts(c)) return MISSING;
    }
    return DONE;
}

static void run_ops(Team* t, uint32_t thread) {
    Call c = {.team = t, .thread = thread};
    uint32_t status = DONE, segment = 0, op = t->first_op;
    if (meet(&c)) status = is_aborted(t) ? ABORTED : CANCELLED;
    for (; status == DONE && segment < t->n_bindings; segment++) {
        if (thread == 0) __atomic_store_n(&t->segment, segment, __ATOMIC_RELAXED);  // for whoever looks on
        c.binding = at(entry(t->bindings, segment));
        c.program = at(c.binding->program);
        uint32_t end = segment + 1 == t->n_bindings ? t->end_op : c.program->n_ops;
        status = run_segment(&c, segment ? 0 : t->first_op, end, &op);
        if (status != DONE) break;
    }
    if (thread == 0) t->status = status, t->segment = segment, t->op = op;
    // Nobody begins the next run while another still reads this one's end.
    if (status != ABORTED) meet(&c);
}

// Whether an op's weights are in memory: of the embedding the rows of this pass, of experts those that are chosen, if they are.
static int is_there(Call* c, const Operand* o, int chosen) {
    const Weight* w = weight(c, o);
    const int32_t* tokens = at(c->team->ids);
    if (c->op->kernel == EMBED) {
        for (uint32_t t = 0; t < c->team->n_tokens; t++)
            if (!entry(c->binding->table, w->first + (uint32_t)tokens[t] / w->rows_per_entry)) return 0;
    } else if (c->op->kernel == EXPERT_MATMUL) {
        const Operand* experts = &c->op->in[2];
        const int32_t* e = (const int32_t*)values(c, experts);
        for (uint32_t i = 0; chosen && !c->team->partial && i < n_rows(c, experts) * experts->width; i++)
            if (!entry(c->binding->table, w->first + (uint32_t)e[i])) return 0;
    } else if (c->op->kernel == MATMUL) {
        return entry(c->binding->table, w->first + (uint32_t)c->op->params[0] / w->rows_per_entry) != 0;
    } else {
        for (uint32_t i = 0; i < w->n_entries; i++)
            if (!entry(c->binding->table, w->first + i)) return 0;
    }
    return 1;
}

// What would make a kernel read what is not there: found before any thread starts.
static uint32_t check(Team* t) {
    Call c = {.team = t};
    for (uint32_t s = 0; s < t->n_bindings; s++) {
        c.binding = at(entry(t->bindings, s));
        c.program = at(c.binding->program);
        uint32_t first = s ? 0 : t->first_op, end = s + 1 == t->n_bindings ? t->end_op : c.program->n_ops;
        const Op* ops = (const Op*)((const uint8_t*)c.program + c.program->ops);
        int chosen = 1;  // by a run before this one, unless this one routes
        t->segment = s;
        if (c.program->version != VERSION || end > c.program->n_ops) return BAD_PROGRAM;
        for (uint32_t i = first; i < end; i++) {
            t->op = i;
            c.op = &ops[i];
            if (c.op->kernel >= N_KERNELS) return BAD_PROGRAM;
            if (c.op->kernel == ROUTE) chosen = 0;
            for (uint32_t j = 0; j < sizeof c.op->in / sizeof *c.op->in; j++)
                if (c.op->in[j].space == WEIGHT && !is_there(&c, &c.op->in[j], chosen)) return ABSENT_WEIGHT;
        }
    }
    return DONE;
}

// Run what the team's fields describe; returns the status. team.segment and team.op: where it stopped, or what failed.
__attribute__((export_name("run"))) uint32_t run(Team* t) {
    t->status = check(t);
    if (t->status != DONE) return t->status;
    __atomic_add_fetch(&t->job, 1, __ATOMIC_SEQ_CST);
    if (t->n_threads > 1) wake(&t->job);
    run_ops(t, 0);
    return t->status;
}

// A worker: takes part in every run until the team is aborted.
__attribute__((export_name("work"))) void work(Team* t, uint32_t thread) {
    uint32_t job = 0;
    while (!is_aborted(t)) {
        uint32_t now = look(&t->job);
        if (now == job) {
            sleep_on(&t->job, job);
            continue;
        }
        job = now;
        run_ops(t, thread);
    }
}

// End all waiting: every thread returns from run() and work(). The team is of no use after it.
__attribute__((export_name("abort_team"))) void abort_team(Team* t) {
    __atomic_fetch_or(&t->control, ABORT, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&t->job, 1, __ATOMIC_SEQ_CST);
    wake(&t->job);
    wake(&t->phase);
}
