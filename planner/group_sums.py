"""Seconds that the members of a group spend on their sums and on gathering logits, beyond computing.

Over slower links the sum of many rows travels in p pieces, each under the product of the next (worker/overlap.py):
where the output or down projection takes t, and a piece s, what comes on top of computing is

    s + (p - 1) max(0, s - t / p)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from potluck.models.costs import PartCost, Pass
from potluck.models.spec import ModelSpec, PartKind
from potluck.planner.agreement import FEWEST_ROWS, pieces_of, wire_of
from potluck.planner.all_reduce import Algorithm
from potluck.planner.axes import local_spec
from potluck.planner.collectives import SECONDS, Mesh, fastest, mesh_of, one_after_another
from potluck.planner.fleet import Fleet
from potluck.planner.plan import Stage
from potluck.planner.prediction import Times
from potluck.planner.software import MEASURED, Software
from potluck.planner.sums import logits_traffic, message_bytes, sums_per_step

Members = tuple[PartCost, ...]
"""The cost of one part for every member of a group, the lead first."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a step is computed: the fleet, the model, the compute type, what software adds."""

    fleet: Fleet
    spec: ModelSpec
    dtype: str
    software: Software = MEASURED


@dataclass(frozen=True)
class GroupSums:
    """A stage's costs of parts, and what its sums take; `parts` in order."""

    stage: Stage
    setting: Setting
    parts: tuple[Members, ...]

    def sums(self, work: Pass) -> Times:
        """All sums of a step, and the gather of logits."""
        count = sums_per_step(self.stage)
        gathers = bool(work.sampled) and self.stage.has_head
        seconds = sum(times * self.sum_seconds(*alike, work) for alike, times in self._summed.items())
        seconds += self._gather(work) if gathers else 0.0
        return Times(sums=seconds, software=(count + gathers) * self.setting.software.sum)

    def sum_seconds(self, kind: PartKind, members: Members, work: Pass) -> float:
        """Seconds that the sum after a part takes beyond computing; none after a head."""
        if kind is PartKind.HEAD:
            return 0.0
        pieces = self.pieces(work) if kind is not PartKind.EMBEDDING else 1
        if pieces == 1:
            return self.one_sum(work)
        piece = SECONDS[Algorithm.DIRECT](self.mesh, self.piece_bytes(work))
        product = min(self.product_seconds(kind, members, work)) / pieces
        return piece + (pieces - 1) * max(0.0, piece - product)

    def pieces(self, work: Pass) -> int:
        """In how many pieces the sums of a step travel; 1: whole."""
        pieces = pieces_of(self.stage, self.mesh)
        if pieces == 1 or work.rows // pieces < FEWEST_ROWS:
            return 1
        return pieces if self.algorithm(self.piece_bytes(work)) is Algorithm.DIRECT else 1

    def piece_bytes(self, work: Pass) -> int:
        """Bytes of one member's part of a piece."""
        rows = -(-work.rows // pieces_of(self.stage, self.mesh))
        return self._bytes(rows)

    def product_seconds(self, kind: PartKind, members: Members, work: Pass) -> list[float]:
        """Seconds of the product whose parts are summed, for each member: of a part's operations on rows, its share."""
        return [
            share[kind] * member.row * work.rows for share, member in zip(self._last_products, members, strict=True)
        ]

    def one_sum(self, work: Pass) -> float:
        """Seconds of one all-reduce on the wire."""
        nbytes = self.sum_bytes(work)
        return SECONDS[self.algorithm(nbytes)](self.mesh, nbytes)

    def algorithm(self, nbytes: int) -> Algorithm:
        """How sums of so many bytes a member are formed."""
        return self.stage.all_reduce.algorithm or fastest(self.mesh, nbytes)

    def sum_bytes(self, work: Pass) -> int:
        """Bytes of one member's part of a sum."""
        return self._bytes(work.rows)

    def _bytes(self, rows: int) -> int:
        wire = self.stage.all_reduce.wire or wire_of(self.mesh, self.setting.dtype)
        return message_bytes(rows * self.setting.spec.hidden, wire)

    @cached_property
    def mesh(self) -> Mesh:
        """The links among the members."""
        return mesh_of(self.setting.fleet, self.stage.nodes)

    @cached_property
    def _summed(self) -> dict[tuple[PartKind, Members], int]:
        return Counter((part.kind, members) for part, members in zip(self.stage.parts, self.parts, strict=True))

    @cached_property
    def _last_products(self) -> list[dict[PartKind, float]]:
        """For each member, which part of attention's matrices is the output's, and of the FFN's the down matrix."""
        specs = [local_spec(self.setting.spec, share) for share in self.stage.shares]
        queries = [(spec.heads * spec.head_dim, spec.kv_width()) for spec in specs]
        return [{PartKind.ATTENTION: query / (2 * query + kv), PartKind.FFN: 1 / 3} for query, kv in queries]

    def _gather(self, work: Pass) -> float:
        traffic = logits_traffic(self.stage, work.sampled, self.setting.spec)
        return one_after_another([(self.setting.fleet.link(*ends), nbytes) for ends, nbytes in traffic.items()])
