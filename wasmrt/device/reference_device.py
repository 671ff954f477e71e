"""The reference device: a loop over a program's ops that calls the functions of reference.py."""

import asyncio
import math
import time
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from wasmrt.device.device import (
    KEPT_NONE,
    Bound,
    Candidates,
    Kept,
    Stop,
    arena_offsets,
    check_formats,
    check_rows,
    out_row,
)
from wasmrt.device.reference import F32, I32, OPS, READS_ROWS, Packed, expert_matmul
from wasmrt.errors import BudgetError, DeviceError
from wasmrt.program.ops import KERNELS, N_OUT, POS, STATE_SLOTS, TOKENS, Op, Operand, Program, Space
from wasmrt.store.memory import HostMemory
from wasmrt.store.source import outlast


class Control(IntEnum):
    """Looked at between ops: a run goes on, leaves early, or leaves for good."""

    RUN = 0
    CANCEL = 1  # by whoever waits for the run; the next run goes on
    ABORT = 2  # the device is being closed


class ReferenceDevice:
    """Runs programs op by op through numpy, in a thread of its own."""

    name = "reference"
    batch_invariant = False  # the order in which BLAS adds depends on the number of rows
    n_threads = 1  # numpy's own are not counted

    def __init__(self, memory: HostMemory) -> None:
        self._memory = memory
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="wasmrt-reference")
        self._control = Control.RUN
        self._max_tokens = self._max_out = self._arena = 0
        self._ids = np.zeros(0, np.int32)
        self._pos = self._n_out = self._row = 0
        self._kept, self._partial = KEPT_NONE, False
        self.kernel_seconds = 0.0

    def compile(self, programs: Sequence[Program], max_tokens: int, max_out: int, kept: Kept = KEPT_NONE) -> None:
        check_formats(programs)
        self._max_tokens, self._max_out, self._kept = max_tokens, max_out, kept
        self._arena = self._memory.allocate(max(arena_offsets(program, max_tokens, max_out, kept)[-1] for program in programs))

    def bind(self, program: Program, context: int) -> Bound:
        table = array("Q", bytes(8 * program.n_entries))
        kv = tuple(self._array(self._memory.allocate(4 * context * width), (context, width)) for width in program.kv)
        state = tuple(self._array(self._memory.allocate(4 * n), (n,)) for n in program.state)
        offsets = arena_offsets(program, self._max_tokens, self._max_out, self._kept)
        slots = tuple(self._arena + offset for offset in offsets)
        return Bound(program, table, slots, kv, state, kept=self._kept.of(program))

    def begin(self, ids: Sequence[int], pos: int, n_out: int, row: int = 0) -> None:
        if not 0 < len(ids) <= self._max_tokens or not 0 <= n_out <= min(len(ids), self._max_out):
            raise ValueError(f"{len(ids)} tokens, {n_out} rows of logits; compiled for {self._max_tokens} and {self._max_out}")
        check_rows(row, len(ids), self._kept)
        self._ids = np.asarray(ids, np.int32)
        self._pos, self._n_out, self._row = pos, n_out, row

    async def run(self, bounds: Sequence[Bound], ops: range, partial: bool = False) -> Stop:
        self._check_open()
        self._partial = partial
        try:
            running = asyncio.get_running_loop().run_in_executor(self._executor, self._run, bounds, ops)
        except RuntimeError as error:
            raise DeviceError(f"the system gives no thread to compute in ({error}); close other programs or models") from error
        cancelled = await outlast(running, self._cancel)
        failed = running.exception()  # looked at in any case: asyncio complains about one that nobody saw
        self._check_open()
        if cancelled:
            self._control = Control.RUN
            raise asyncio.CancelledError
        if isinstance(failed, MemoryError):
            raise BudgetError(f"the system has no memory left for what a pass computes with ({failed}); close other programs")
        return running.result()

    def _cancel(self) -> None:
        self._control = max(self._control, Control.CANCEL)

    def _run(self, bounds: Sequence[Bound], ops: range) -> Stop:
        started = time.perf_counter()
        try:
            return self._run_segments(bounds, ops)
        finally:
            self.kernel_seconds += time.perf_counter() - started

    def _run_segments(self, bounds: Sequence[Bound], ops: range) -> Stop:
        last = len(bounds) - 1
        for i, bound in enumerate(bounds):
            some = range(0 if i else ops.start, ops.stop if i == last else len(bound.program.ops))
            next_op, missing = self._run_segment(bound, some)
            if next_op != some.stop or missing:
                return Stop(i, next_op, missing)
        return Stop(last, ops.stop)

    def _run_segment(self, bound: Bound, ops: range) -> tuple[int, tuple[int, ...]]:
        """The token loop's inner part: resolve an op's operands, call its function, write what it gives."""
        for i in ops:
            if self._control is not Control.RUN:
                return i, ()
            op = bound.program.ops[i]
            outs = [self._resolve(o, bound, op) for o in op.out]
            mutated = [out for o, out in zip(op.out, outs, strict=True) if o.space is not Space.ACTIVATION]
            ins = [self._resolve(o, bound, op) for o in op.ins]
            with np.errstate(all="ignore"):  # damaged weights: `logits` says so, numpy need not
                if self._partial and op.kernel == "expert_matmul":
                    _some_experts(outs[0], *ins)
                    continue
                got = OPS[op.kernel](*mutated, *ins, **dict(zip(KERNELS[op.kernel].params, op.params, strict=True)))
            results = got if isinstance(got, tuple) else (got,)
            written = [out for o, out in zip(op.out, outs, strict=True) if o.space is Space.ACTIVATION]
            for out, result in zip(written, results, strict=False):
                first = op.weight_rows.start if op.weight_rows else 0
                out[:, first : first + result.shape[1]] = result
            if op.kernel == "route" and (missing := _missing_experts(bound, results[0])):
                return i + 1, missing
        return ops.stop, ()

    def _resolve(self, operand: Operand | None, bound: Bound, op: Op) -> Any:
        """The value of an operand: an array over its memory, a number, or a packed weight."""
        if operand is None:
            return None
        match operand.space:
            case Space.WEIGHT:
                packed = Packed(bound.program.weights[operand.index], bound.table, self._memory)
                if op.kernel in READS_ROWS:
                    return packed
                rows = np.concatenate([block for _, block in packed.chunks()])
                return rows if len(bound.program.weights[operand.index].shape) > 1 else rows[0]
            case Space.ACTIVATION:
                n_rows = len(self._ids) if operand.rows == "T" else self._n_out
                row = self._row if operand.index in bound.kept else 0
                start = bound.slots[operand.index] + 4 * row * operand.width
                return self._array(start, (n_rows, operand.width), np.int32 if operand.dtype == "i32" else np.float32)
            case Space.KV:
                return bound.kv[operand.index]
            case Space.STATE if operand.index >= STATE_SLOTS:
                return bound.state[operand.index - STATE_SLOTS]
            case Space.STATE:
                return {TOKENS.index: self._ids, POS.index: self._pos, N_OUT.index: self._n_out}[operand.index]

    def chosen(self, bound: Bound, route: int) -> set[int]:
        op = bound.program.ops[route]
        return set(self._resolve(op.out[0], bound, op).ravel().tolist())

    def _array(self, address: int, shape: tuple[int, ...], dtype: Any = np.float32) -> npt.NDArray[Any]:
        return np.frombuffer(self._memory.view(address, 4 * math.prod(shape)), dtype).reshape(shape)

    def clear_state(self, bound: Bound) -> None:
        for state in bound.state:
            state[...] = 0

    async def logits(self, head: Bound) -> "memoryview[float]":
        return memoryview(self._logits(head).tobytes()).cast("f", (self._n_out, head.program.result.width))

    async def candidates(
        self, head: Bound, k: int, recent: Sequence[int], penalty: float, temperature: float, row: int = -1
    ) -> Candidates:
        started = time.perf_counter()
        at = out_row(row, self._n_out)
        logits = self._logits(head, slice(at, at + 1))[0].astype(np.float64)
        for token in set(recent) if penalty != 1.0 else ():
            logits[token] = np.float32(logits[token] / penalty if logits[token] > 0 else logits[token] * penalty)
        n = min(k, len(logits))
        least = np.partition(logits, len(logits) - n)[len(logits) - n]
        ids = np.flatnonzero(logits >= least)
        ids = ids[np.lexsort((ids, -logits[ids]))][:n]
        others = np.delete(logits, ids)
        rest = _log_sum_exp(others, 1.0)
        rest_at = rest if temperature in (0, 1) else _log_sum_exp(others, temperature)
        self.kernel_seconds += time.perf_counter() - started
        return Candidates(ids.tolist(), logits[ids].tolist(), rest, rest_at)

    def _logits(self, head: Bound, rows: slice = slice(None)) -> F32:
        result = head.program.result
        logits: F32 = self._array(head.slots[result.index], (self._n_out, result.width))[rows]
        if not np.isfinite(logits).all():
            raise DeviceError("the logits hold NaN or infinity: a weight of this file is damaged, or too large for float32")
        return logits

    def _check_open(self) -> None:
        if self._control is Control.ABORT:
            raise DeviceError("the device was closed, so this pass was not finished; open the model again")

    def close(self) -> None:
        self._control = Control.ABORT
        self._executor.shutdown(wait=False)  # who awaits a run waits for the thread; the event loop does not


def _log_sum_exp(logits: npt.NDArray[np.float64], temperature: float) -> float:
    """log(sum(exp(logits / temperature))), in relation to the largest so that exp does not overflow; -inf for none."""
    if not len(logits):
        return -math.inf
    largest = logits.max()
    with np.errstate(over="ignore"):  # divided by a tiny temperature, what is not the largest is -inf and weighs nothing
        return float(largest / temperature + np.log(np.exp((logits - largest) / temperature).sum()))


def _some_experts(y: F32, w: Packed, x: F32, experts: I32) -> None:
    """expert_matmul for the experts that are in memory; the rows of the others stay as they are."""
    n_tokens, n_used = experts.shape
    there = np.isin(experts, [e for e in np.unique(experts).tolist() if w.has(e)])
    rows = np.broadcast_to(x.reshape(n_tokens, -1, w.n), (n_tokens, n_used, w.n))
    some = expert_matmul(w, rows[there], experts[there][:, None])
    y.reshape(n_tokens, n_used, -1)[there] = some


def _missing_experts(bound: Bound, experts: I32) -> tuple[int, ...]:
    """The table entries of the chosen experts that are not in memory."""
    chosen = np.unique(experts).tolist()
    entries = (w.first + e for w in bound.program.weights if w.is_expert for e in chosen)
    return tuple(entry for entry in entries if bound.table[entry] == 0)
