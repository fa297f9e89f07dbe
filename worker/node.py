"""The half of a worker that needs torch: loading shards, running steps, measuring. Imported after the port is open."""

from __future__ import annotations

import contextlib
import gc
import logging
import queue
import resource
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import torch

from potluck.kernels import packed
from potluck.models.checkpoint import CheckpointError
from potluck.models.open import UnsupportedModel, open_checkpoint
from potluck.models.sizes import step_bytes
from potluck.proto import cluster_pb2 as pb
from potluck.proto.errors import FrameError, Refusal
from potluck.proto.link import LinkTarget
from potluck.proto.stream import StreamRole
from potluck.worker import probe
from potluck.worker.assignment import Share, read_assignment, read_dtype, wire_dtype
from potluck.worker.capacity import default_threads
from potluck.worker.described import Described
from potluck.worker.device import choose_device
from potluck.worker.emulation import Emulation
from potluck.worker.epochs import Epoch, Epochs, Paced, Ways
from potluck.worker.executor import Executor
from potluck.worker.fetch import Holder
from potluck.worker.group import Group, SumTotals
from potluck.worker.group_assignment import agreement_with
from potluck.worker.hardware import node_fingerprint
from potluck.worker.heap import give_back
from potluck.worker.loading import Loader
from potluck.worker.members import Members
from potluck.worker.overlap import unpaced
from potluck.worker.pace import Pace
from potluck.worker.packing import WeightError
from potluck.worker.probe import Subject
from potluck.worker.shard import Shard
from potluck.worker.shard_manifest import ShardFileError
from potluck.worker.shard_memory import ShardMemory
from potluck.worker.windows import GpuOptions

_BEHIND_SECONDS, _BEHIND = 1.0, 0.05  # an emulation that is later than both is not true
_ALLOWANCE = 768 << 20  # buffers, thread stacks and allocator slack on top of an emulated node's budget
_LOG = logging.getLogger("potluck.worker")


class LoadRefused(Exception):
    """An assignment cannot be loaded here; `refusal` says what kind of no it is."""

    def __init__(self, reason: str, refusal: Refusal) -> None:
        super().__init__(reason)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What the command line says about this node.

    `memory` is its budget in bytes, None for what is free on the device; `threads` 0 means one per physical core;
    `device` is auto, cpu or cuda; `gpu` is heeded where it is a GPU.
    """

    name: str
    token: str
    cache: Path
    memory: int | None
    threads: int
    emulation: Emulation
    device: str = "cpu"
    gpu: GpuOptions = field(default_factory=GpuOptions)


class Node:
    """Loads, runs and measures; one per process."""

    def __init__(self, config: NodeConfig) -> None:
        """Raises DeviceError where the device cannot be had."""
        self._device = choose_device(config.device)
        # More than that only wait for each other.
        most = 2 * (psutil.cpu_count() or 1)
        self._threads = min(config.threads, most) or default_threads()
        torch.set_num_threads(self._threads)
        packed.set_threads(self._threads)
        self.epochs = Epochs()
        self.holder = Holder(open_checkpoint)
        self._config = config
        self._pace, self._trusted = Pace() if config.emulation.device else None, True
        self._probing = threading.Lock()
        self._sums = SumTotals()
        self.executor = Executor(config.name)
        self._loader = Loader(config.cache, config.token, self.holder, config.emulation.disk)
        self._loading = threading.Lock()
        # A GPU's driver maps far more of the address space than it uses, and weights lie on the device.
        if config.memory is not None and self._device.type == "cpu":
            _limit_memory(config.memory)

    def probe(self, request: pb.ProbeRequest) -> pb.ProbeReply:
        """Measure this node.

        Raises:
            FrameError: the compute type is not known.
        """
        dtype = read_dtype(request.dtype or "float32")
        # Two at a time would measure each other.
        with self._probing:
            return probe.measure_node(self._subject, request, dtype)

    @property
    def _subject(self) -> Subject:
        config = self._config
        emulated = "" if config.emulation == Emulation() else repr(config.emulation)
        fingerprint = node_fingerprint(config.device, config.threads, emulated)
        return Subject(self._device, self._threads, config.cache, config.memory, fingerprint, config.emulation)

    def load(self, assignment: pb.Assignment) -> Iterator[pb.LoadProgress]:
        """Load an assignment's shard; progress as it goes, the last message says ready.

        Raises:
            LoadRefused, FrameError: it cannot be loaded; nothing of it is kept.
        """
        share = read_assignment(assignment, self._config.name, self._device)
        share = replace(share, config=replace(share.config, gpu=self._config.gpu))
        with self._loading, self.epochs.loading(assignment.epoch):
            memory = ShardMemory(share.spec, share.windows, share.config)
            self._check_memory(memory.held(assignment.stream_bytes) + step_bytes(share.spec, assignment.max_rows))
            members = self._members(assignment, share)
            shard = Shard(share.spec, share.windows, share.config, self._groups(share, members), self._pace)
            total = pb.LoadProgress(weight_bytes=memory.weights, kv_bytes=memory.kv)
            yield from _reported(lambda report: self._loader.load(assignment, share, shard, report), total)
            give_back()
            self.epochs.add(self._epoch(assignment, shard, share, members))
            total.ready, total.activity = True, "ready"
            yield total

    def status(self, uptime: float) -> pb.StatusReply:
        """Counts since the start."""
        totals, links, memory = self.executor.totals, self.epochs.counts(), psutil.Process().memory_info()
        self._look_behind()
        shards = [epoch.shard for epoch in self.epochs.held]
        return pb.StatusReply(
            node=self._config.name,
            epochs=[epoch.number for epoch in self.epochs.held],
            compute_seconds=totals.compute,
            wait_seconds=totals.wait,
            transfer_seconds=sum(count.transfer_seconds + count.blocked_seconds for count in links.values()),
            steps=totals.steps,
            rows=totals.rows,
            links=[
                pb.LinkCount(
                    node=node, frames=count.frames, payload_bytes=count.payload_bytes, header_bytes=count.header_bytes
                )
                for node, count in links.items()
            ],
            resident_bytes=memory.rss,
            anonymous_bytes=memory.rss - getattr(memory, "shared", 0),
            stall_seconds=sum(shard.stall_seconds for shard in shards),
            streamed_bytes=sum(shard.brought_bytes for shard in shards),
            sums=self._sums.sums,
            sum_seconds=self._sums.seconds,
            behind_seconds=self._pace.behind if self._pace else 0.0,
            uptime_seconds=uptime,
        )

    def _look_behind(self) -> None:
        """Say once that the emulation is not true here."""
        behind, computed = self._pace.behind if self._pace else 0.0, self.executor.totals.compute
        if self._trusted and behind > max(_BEHIND_SECONDS, _BEHIND * computed):
            self._trusted = False
            _LOG.warning("%.1f s of %.1f s later than described: this machine is too slow or busy", behind, computed)

    def stop(self) -> None:
        """End all epochs and the compute thread."""
        for epoch in self.epochs.held:
            epoch.close()
        self.executor.stop(1.0)

    def _check_memory(self, needed: int) -> None:
        if self._device.type == "cuda":
            # Shards of epochs that are over are freed when the collector comes, which a GPU's memory does not call.
            gc.collect()
        held = sum(epoch.shard.memory_bytes for epoch in self.epochs.held)
        budget = self._config.memory
        have = budget - held if budget is not None else probe.memory_left(self._device)
        if needed > have:
            raise LoadRefused(
                f"the share needs {needed / 2**20:.0f} MiB, this node has {have / 2**20:.0f} MiB left; "
                "use a smaller --kv-tokens, bfloat16, or another node",
                Refusal.OVERSIZED,
            )

    def _epoch(self, assignment: pb.Assignment, shard: Shard, share: Share, members: Members) -> Epoch:
        nexts = {w.stage: tuple(w.next_nodes) for w in assignment.windows}
        targets = self._targets(assignment, {node for nodes in nexts.values() for node in nodes}, "worker")
        ways = Ways(nexts, targets, wire_dtype(assignment.dtype), share.spec.hidden, assignment.max_rows)
        return Epoch(assignment.epoch, shard, ways, members, self._paced(share, assignment.dtype))

    def _paced(self, share: Share, dtype: str) -> Paced:
        pace, device = self._pace, self._config.emulation.device
        if pace is None or device is None:
            return lambda stage, step: contextlib.nullcontext()
        described = Described(share.spec, share.windows, (device, dtype))
        return lambda stage, step: pace.window(lambda: described.targets(stage, step))

    def _members(self, assignment: pb.Assignment, share: Share) -> Members:
        others = {node for group in share.groups.values() for node in group.nodes}
        targets = self._targets(assignment, others, "member").items()
        agreed = {node: replace(target, agreement=agreement_with(node, share.groups)) for node, target in targets}
        return Members(self._config.name, agreed, self._pace)

    def _groups(self, share: Share, members: Members) -> dict[int, Group]:
        own, apart = self._config.name, self._pace.apart if self._pace else unpaced
        return {stage: Group(plan, own, members.link, self._sums, apart) for stage, plan in share.groups.items()}

    def _targets(self, assignment: pb.Assignment, nodes: Iterable[str], role: StreamRole) -> dict[str, LinkTarget]:
        peers = {peer.node: peer for peer in assignment.peers}
        others = set(nodes) - {self._config.name}
        return {node: self._target(peers[node], assignment.epoch, role) for node in others}

    def _target(self, peer: pb.Peer, epoch: int, role: StreamRole) -> LinkTarget:
        config, shape = self._config, self._config.emulation.link(peer.node)
        return LinkTarget(config.name, peer.node, peer.address, config.token, epoch, role, shape, peer.data_port)


def _reported(
    work: Callable[[Callable[[pb.LoadProgress], None]], None], total: pb.LoadProgress
) -> Iterator[pb.LoadProgress]:
    """Run work in a thread and yield what it reports; its error is raised here.

    When whoever asked goes away, work is ended at its next report, before another load may begin.

    Raises:
        LoadRefused: work failed.
    """
    reports: queue.SimpleQueue[pb.LoadProgress | None] = queue.SimpleQueue()
    left = threading.Event()

    def report(progress: pb.LoadProgress) -> None:
        if left.is_set():
            raise LoadRefused("whoever asked for this load went away", Refusal.MISMATCH)
        reports.put(progress)

    def run() -> None:
        try:
            _refusing(work, report)
        finally:
            reports.put(None)

    with ThreadPoolExecutor(1, "load") as pool:
        outcome = pool.submit(run)
        try:
            while (progress := reports.get()) is not None:
                progress.weight_bytes, progress.kv_bytes = total.weight_bytes, total.kv_bytes
                yield progress
        finally:
            left.set()
        outcome.result()


def _refusing(
    work: Callable[[Callable[[pb.LoadProgress], None]], None], report: Callable[[pb.LoadProgress], None]
) -> None:
    try:
        work(report)
    except FrameError as error:
        raise LoadRefused(error.reason, error.refusal) from None
    except (CheckpointError, UnsupportedModel, WeightError, ShardFileError, OSError) as error:
        raise LoadRefused(str(error), Refusal.MISMATCH) from None
    except KeyError as error:
        raise LoadRefused(f"the checkpoint has no tensor {error.args[0]}", Refusal.MISMATCH) from None
    except (MemoryError, RuntimeError) as error:
        raise LoadRefused(f"out of memory while loading: {_first_line(error)}", Refusal.OVERSIZED) from None
    except ValueError as error:
        raise LoadRefused(str(error), Refusal.MALFORMED) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _limit_memory(budget: int) -> None:
    """Let the kernel refuse what an emulated node would not have (Linux: private writable memory)."""
    if sys.platform != "linux":
        return
    data = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = data + budget + _ALLOWANCE
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
