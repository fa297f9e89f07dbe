"""The half of a worker that needs torch: loading shards, running steps, measuring. Imported after the port is open."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import torch

from potluck.kernels import packed
from potluck.models.open import open_checkpoint
from potluck.models.sizes import step_bytes
from potluck.proto import cluster_pb2 as pb
from potluck.proto.errors import Refusal
from potluck.worker import probe
from potluck.worker.assignment import read_assignment, read_dtype
from potluck.worker.capacity import default_threads
from potluck.worker.device import choose_device
from potluck.worker.emulation import Emulation
from potluck.worker.epoch_assembly import Assembly
from potluck.worker.epochs import Epochs
from potluck.worker.executor import Executor
from potluck.worker.fetch import Holder
from potluck.worker.hardware import node_fingerprint
from potluck.worker.heap import give_back
from potluck.worker.load_reports import LoadRefused, reported
from potluck.worker.loading import Loader
from potluck.worker.memory_limit import limit_memory
from potluck.worker.pace import Pace
from potluck.worker.probe import Subject
from potluck.worker.shard import Shard
from potluck.worker.shard_memory import ShardMemory
from potluck.worker.windows import GpuOptions

_BEHIND_SECONDS, _BEHIND = 1.0, 0.05  # an emulation that is later than both is not true
_LOG = logging.getLogger("potluck.worker")


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
        self._assembly = Assembly(config.name, config.token, config.emulation, self._pace)
        self.executor = Executor(config.name)
        self._loader = Loader(config.cache, config.token, self.holder, config.emulation.disk)
        self._loading = threading.Lock()
        # A GPU's driver maps far more of the address space than it uses, and weights lie on the device.
        if config.memory is not None and self._device.type == "cpu":
            limit_memory(config.memory)

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
            members = self._assembly.members(assignment, share)
            shard = Shard(share.spec, share.windows, share.config, self._assembly.groups(share, members), self._pace)
            total = pb.LoadProgress(weight_bytes=memory.weights, kv_bytes=memory.kv)
            yield from reported(lambda report: self._loader.load(assignment, share, shard, report), total)
            give_back()
            self.epochs.add(self._assembly.epoch(assignment, shard, share, members))
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
            sums=self._assembly.sums.sums,
            sum_seconds=self._assembly.sums.seconds,
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
