"""Stages: the parts of a segment whose weights are in memory together, while all chunks of a prompt go through them.

A prompt of several chunks passes over streamed weights once if every chunk goes through some ops before the next weights come.
What is alive between two stages must be kept for the whole prompt, so stages end where little is: after a layer the residual
stream alone. Pure functions of programs and sizes.
"""

from collections.abc import Sequence, Set

from wasmrt.program.ops import Op, Program, Space
from wasmrt.store.layers import Stage
from wasmrt.store.plan import Demand


def stages_of(segment: int, program: Program, sizes: Sequence[int], capacity: int, alone: Set[int]) -> list[Stage]:
    """Cut a segment's ops so that each stage needs at most `capacity` bytes of weights at once.

    sizes: of each op's weights. alone: ops that are a stage of their own, as what routers choose is read between stages.
    """
    alive = live_widths(program)
    found, start, n_ops = [], 0, len(program.ops)
    while start < n_ops:
        end, n_bytes = start, 0
        while end < n_ops and (end == start or (n_bytes + sizes[end] <= capacity and not {end - 1, end} & alone)):
            n_bytes += sizes[end]
            end += 1
        if end < n_ops and not {end - 1, end} & alone:
            # Of the places where at least half of it is used, the one where least is alive; of equals the last.
            used, best = 0, end
            for at in range(start + 1, end + 1):
                used += sizes[at - 1]
                if 2 * used >= n_bytes and (alive[at] < alive[best] or (alive[at] == alive[best] and at > best)):
                    best = at
            end = best
        found.append(Stage(segment, range(start, end)))
        start = end
    return found


def cut(programs: Sequence[Program], demand: Demand) -> tuple[tuple[Stage, ...], dict[Program, frozenset[int]]]:
    """The stages of all segments but the head, as if nothing were resident, and the slots that each program keeps between them.

    programs[i] computes segment i. A stage leaves room for two ops' weights in the ring: it begins anywhere in it, maybe behind
    what was read ahead, and wraps around, so that up to one frame is lost at either place.
    """
    capacity = max(demand.largest_op, demand.ring_bytes - 2 * demand.largest_op)
    stages: list[Stage] = []
    ends: dict[int, set[int]] = {id(program): set() for program in programs}
    for i, program in enumerate(programs):
        sizes = [demand.bytes_of(needs) for needs in demand.table.needs[i]]
        segment = demand.table.segments[i]
        alone = segment.routes | {op for op, used in enumerate(segment.uses) if segment.experts.intersection(used)}
        if i < len(programs) - 1:
            found = stages_of(i, program, sizes, capacity, alone)
            stages += found
            ends[id(program)].update(stage.ops.stop for stage in found)
    kept = {id(program): kept_slots(program, sorted(ends[id(program)])) for program in programs}
    return tuple(stages), {program: kept[id(program)] for program in programs}


def kept_slots(program: Program, ends: Sequence[int]) -> frozenset[int]:
    """The slots that are alive where a stage of this program ends, before op `end`; slot 0 always."""
    alive = live_slots(program)
    return frozenset({0}.union(*(alive[end] for end in ends)))


def live_slots(program: Program) -> list[frozenset[int]]:
    """For each place between ops (before op i, and last after all), the slots whose content is still read."""
    live = frozenset({program.result.index} if program.result.rows == "T" else ())
    found = [live]
    for op in reversed(program.ops):
        fills = frozenset() if _adds_to(op) else frozenset(o.index for o in op.out if o.space is Space.ACTIVATION)
        reads = frozenset(o.index for o in op.ins if o is not None and o.space is Space.ACTIVATION)
        live = (live - fills) | reads
        found.append(live)
    return found[::-1]


def live_widths(program: Program) -> list[int]:
    """The same as elements a token."""
    return [sum(program.slots[i].width for i in live if program.slots[i].rows == "T") for live in live_slots(program)]


def _adds_to(op: Op) -> bool:
    """Whether an op leaves a part of its output as it was: the later entries of a matrix."""
    return bool(op.weight_rows and op.weight_rows.start)
