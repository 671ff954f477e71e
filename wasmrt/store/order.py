"""Order: which extents each op of a pass uses, which come next, and when one is used again."""

from collections.abc import Container, Iterator

from wasmrt.store.layers import Kind, LayerTable
from wasmrt.store.predict import Predictor


class Order:
    """All ops of all segments in a row; `cursor` is the first that has not run.

    dense[at], experts[at]: the extents that op `at` reads in every pass, and those of which it reads what a router chose;
    all[at]: with those that it has on a GPU, and the embedding.
    """

    def __init__(self, table: LayerTable, predictor: Predictor) -> None:
        self.predictor = predictor
        self.cursor = 0
        self.ops = [(s, op) for s, segment in enumerate(table.segments) for op in range(len(segment.uses))]
        self.start_of = [0]  # of each segment, and last the end
        for segment in table.segments:
            self.start_of.append(self.start_of[-1] + len(segment.uses))
        kinds = [extent.kind for extent in table.extents]
        self.dense = [tuple(i for i in table.needs[s][op] if kinds[i] is Kind.DENSE) for s, op in self.ops]
        embedding = tuple(i for i, extent in enumerate(table.extents) if any(segment == 0 for segment, _ in extent.places))
        self.all = [embedding if s == 0 else table.needs[s][op] for s, op in self.ops]
        self.experts = [tuple(i for i in table.needs[s][op] if kinds[i] is Kind.EXPERT) for s, op in self.ops]
        self._uses: list[list[int]] = [[] for _ in kinds]  # of each extent, the ops that use it
        for at, (dense, experts) in enumerate(zip(self.dense, self.experts, strict=True)):
            for i in (*dense, *experts):
                self._uses[i].append(at)
        self._walk: list[list[tuple[int, int]]] = []
        self.pass_over(())

    def of_segment(self, segment: int) -> range:
        """A segment's ops among all."""
        return range(self.start_of[segment], self.start_of[segment + 1])

    def move(self, at: int) -> None:
        """The ops before this one have run."""
        if at < len(self.ops) and self.ops[at][0] != self.ops[self.cursor][0]:
            self.predictor.observe(self.ops[at][0])
        self.cursor = at if at < len(self.ops) else 0

    def pass_over(self, extents: Container[int]) -> None:
        """What `upcoming` leaves out: what is there to stay is most of a pass, and that is walked at the end of each read."""
        self._walk = [
            [(at, i) for at in self.of_segment(segment) for i in self.dense[at] if i not in extents]
            for segment in range(len(self.start_of) - 1)
        ]

    def upcoming(self) -> Iterator[int]:
        """Extents in the order in which they will be used, from the op that runs next to the end of the pass after this."""
        for at, i in self._walk[self.ops[self.cursor][0]]:
            if at >= self.cursor:
                yield i
        for segment in self.predictor.predict_next(len(self._walk)):
            for _, i in self._walk[segment]:
                yield i

    def next_use(self, i: int) -> tuple[float, int]:
        """When an extent is used next: segments from now, and the op."""
        here, until = self.ops[self.cursor][0], self.predictor.until
        soonest = (float("inf"), 0)
        for at in self._uses[i]:
            segment = self.ops[at][0]
            away = 0 if segment == here and at >= self.cursor else until(segment)
            soonest = min(soonest, (away, at))
        return soonest
