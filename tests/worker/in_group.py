"""A whole model run by one group in one process: a thread per member, links over socket pairs.

Test modules reach it through the fixture `in_group`.
"""

import itertools
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from potluck.models.open import open_checkpoint, read_spec
from potluck.proto.member_link import MemberError, MemberLink
from potluck.proto.shaper import Shape
from potluck.proto.step import Step
from potluck.worker.cut import Cut
from potluck.worker.group import Group, GroupPlan, SumTotals
from potluck.worker.packing import Packer
from potluck.worker.shard import Shard, ShardConfig, Window


def _never():
    raise MemberError("x", "is silent")


def in_proportion(length, parts, unit=1):
    """Half-open ranges of `length`, about in proportion, each at least one unit."""
    units, total, bounds = length // unit, sum(parts), [0]
    for number, end in enumerate(itertools.accumulate(parts), 1):
        wanted = round(units * end / total)
        bounds.append(min(max(wanted, bounds[-1] + 1), units - (len(parts) - number)))
    bounds[-1] = length / unit
    return [(round(a * unit), round(b * unit)) for a, b in itertools.pairwise(bounds)]


def cuts_of(spec, parts, unit=1):
    """What each member holds when heads, FFN columns and vocabulary are split in these proportions.

    Whole KV heads where there are enough, else query heads.
    """
    group = spec.heads // spec.kv_heads if spec.kv_heads >= len(parts) else 1
    axes = (
        in_proportion(spec.heads, parts, group),
        in_proportion(spec.ffn, parts, unit),
        in_proportion(spec.vocab, parts),
    )
    return [Cut(*ranges) for ranges in zip(*axes, strict=True)]


def links_of(members, shape=None):
    """links[own][other] over socket pairs."""
    links = [{} for _ in range(members)]
    for a, b in itertools.combinations(range(members), 2):
        for (own, other), sock in zip(((a, b), (b, a)), socket.socketpair(), strict=True):
            links[own][f"node{other}"] = MemberLink(f"node{other}", sock, shape or Shape(), _never)
    return links


def group_class(pipeline):
    """The class of pipelines that a group runs; `pipeline` is the one whose shards follow each other."""

    class GroupPipeline(pipeline):
        """`ends`: "split" by vocabulary, or "lead", where the first member has embedding and head to itself."""

        def __init__(self, path, cuts, ends="lead", config=None, wire="float32", algorithm="direct", **kwargs):
            self.spec = kwargs.get("spec") or read_spec(path)
            self.block_size, self.number, self.total = 4, 0, 128
            self.forgotten()
            self.config = config
            self.cuts, self.ends = cuts, ends
            nodes = tuple(f"node{place}" for place in range(len(cuts)))
            rows = tuple(cut.vocabulary if ends == "split" else (0, self.spec.vocab) for cut in cuts)
            plan = GroupPlan(nodes, wire, ((0, algorithm),), rows, kwargs.get("pieces", 1))
            self.links, self.totals = links_of(len(cuts), kwargs.get("shape")), [SumTotals() for _ in cuts]
            checkpoint = open_checkpoint(path)
            self.shards = []
            for place, cut in enumerate(cuts):
                group = Group(plan, nodes[place], self.links[place].__getitem__, self.totals[place])
                shard = Shard(self.spec, self.windows(place, cut), config, {self.middle: group})
                shard.load(kwargs["source"](Packer(self.spec, checkpoint), config))
                self.shards.append(shard)
            self.pool = ThreadPoolExecutor(len(cuts))

        @property
        def middle(self):
            return 0 if self.ends == "split" else 1

        def windows(self, place, cut):
            layers = range(len(self.spec.layers))
            if self.ends == "split":
                return [Window(0, True, layers, True, cut=cut)]
            cut = replace(cut, vocabulary=(0, self.spec.vocab))
            own = [Window(1, False, layers, False, next_wants_sampled=True, cut=cut)]
            return [Window(0, True, range(0), False), *own, Window(2, False, range(0), True)] if place == 0 else own

        def forgotten(self):
            self.free = list(range(self.total))

        def step(self, runs, dropped=()):
            self.number += 1
            step = Step(self.number, list(runs), list(dropped))
            x = self.shards[0].run(0, step, None) if self.ends == "lead" else None
            found = list(self.pool.map(lambda shard: shard.run(self.middle, step, x), self.shards))
            out = self.shards[0].run(2, step, found[0]) if self.ends == "lead" else found[0]
            assert self.ends == "lead" or found[1:] == [None] * (len(found) - 1)
            return {outcome.sequence: outcome for outcome in out}

        def close(self):
            self.pool.shutdown()
            for links in self.links:
                for link in links.values():
                    link.close()

    return GroupPipeline


def config_of(dtype, device, **changes):
    return replace(ShardConfig(dtype, 128, 4, 512, device), **changes)
