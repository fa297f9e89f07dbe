"""What an assignment asks for, checked before anything is allocated for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch

from potluck.kernels.packed import available
from potluck.models.spec import ModelSpec
from potluck.models.spec_codec import unpack_spec
from potluck.proto import cluster_pb2 as pb
from potluck.proto.channel import PROTOCOL
from potluck.proto.errors import FrameError, Refusal
from potluck.proto.step import LARGEST, MAX_NAME, MAX_STAGES
from potluck.worker.device import CPU
from potluck.worker.fetch import check_fingerprint
from potluck.worker.group import GroupPlan
from potluck.worker.group_assignment import read_cut, read_groups
from potluck.worker.operations import Kernels
from potluck.worker.shard import Shard, ShardConfig, Window
from potluck.worker.windows import type_name

_KEEPS_ENCODINGS = ("quantized", "weight-only")
_AS_BFLOAT16 = ("bfloat16", "float16", *_KEEPS_ENCODINGS)
_DTYPES = {"float32": torch.float32} | dict.fromkeys(_AS_BFLOAT16, torch.bfloat16)
_MAX_ROWS = 4096
_MAX_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Share:
    """A node's part of a plan, found possible."""

    spec: ModelSpec
    windows: tuple[Window, ...]
    config: ShardConfig
    groups: Mapping[int, GroupPlan] = field(default_factory=dict)


def read_assignment(assignment: pb.Assignment, node: str, device: torch.device = CPU) -> Share:
    """What `node` is asked to run, on a device of its own.

    Raises:
        FrameError: another protocol, or claims that contradict the model or one another; the message says which.
    """
    if assignment.protocol != PROTOCOL:
        reason = f"the assignment speaks protocol {assignment.protocol}, node {node!r} {PROTOCOL}"
        raise FrameError(reason, Refusal.MISMATCH)
    if not 0 < assignment.epoch <= LARGEST:
        raise FrameError(f"epoch {assignment.epoch} is out of range")
    check_fingerprint(assignment.fingerprint)
    spec, config = _spec(assignment.spec), _config(assignment, device)
    _check_route(assignment, node)
    windows = tuple(_window(window, len(spec.layers), node) for window in assignment.windows)
    groups = read_groups(assignment, spec)
    try:
        # Building one allocates nothing; loading would.
        Shard(spec, windows, replace(config, kv_blocks=1))
    except ValueError as error:
        raise FrameError(str(error)) from None
    return Share(spec, windows, config, groups)


def read_dtype(name: str) -> torch.dtype:
    """A compute type by its name.

    Raises:
        FrameError: it is not known.
    """
    if name not in _DTYPES:
        raise FrameError(f"compute type {name[:20]!r} is not known; known: {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _spec(packed: bytes) -> ModelSpec:
    try:
        return unpack_spec(packed)
    except ValueError as error:
        raise FrameError(f"the assignment's model spec is malformed: {error}") from None


def _config(assignment: pb.Assignment, device: torch.device) -> ShardConfig:
    for what, value, most in (
        ("rows", assignment.max_rows, _MAX_ROWS),
        ("tokens of a KV block", assignment.block_size, _MAX_BLOCK),
        ("KV blocks", assignment.kv_blocks, 2**31 - 1),
    ):
        if not 0 < value <= most:
            raise FrameError(f"the assignment's {what} are {value}; possible: 1 to {most}")
    dtype = read_dtype(assignment.dtype)
    kernels: Kernels = "cpu" if device.type == "cpu" else "gpu"
    quantized = assignment.dtype in _KEEPS_ENCODINGS
    if quantized and not available():
        raise FrameError("this node's Potluck was installed without a C++ compiler; use --dtype bfloat16 or float32")
    exact = assignment.dtype == "weight-only"
    config = ShardConfig(
        dtype, assignment.kv_blocks, assignment.block_size, assignment.max_rows, device, kernels=kernels
    )
    return replace(config, quantized=quantized, exact=exact, half=assignment.dtype == "float16")


def wire_dtype(name: str) -> str:
    """The type in which hidden rows travel."""
    return type_name(read_dtype(name))


def _window(window: pb.Window, layers: int, node: str) -> Window:
    if not window.first_layer <= window.end_layer <= layers:
        raise FrameError(f"stage {window.stage} names layers the model does not have")
    if not (window.embedding or window.head or window.first_layer < window.end_layer):
        raise FrameError(f"stage {window.stage} has no parts")
    if window.embedding != (window.stage == 0):
        raise FrameError(f"stage {window.stage}: the embedding belongs to stage 0 and to no other")
    layers_ = range(window.first_layer, window.end_layer)
    read = Window(window.stage, window.embedding, layers_, window.head, window.next_wants_sampled, window.streamed)
    return replace(read, cut=read_cut(window, node))


def _check_route(assignment: pb.Assignment, node: str) -> None:
    peers = {peer.node for peer in assignment.peers}
    if any(not name or len(name) > MAX_NAME for name in peers):
        raise FrameError(f"a peer's name is empty or longer than {MAX_NAME} characters")
    if any(peer.data_port >= 1 << 16 for peer in assignment.peers):
        raise FrameError("a peer's data port is out of range")
    if any(before.stage >= after.stage for before, after in pairwise(assignment.windows)):
        raise FrameError("the assignment's windows are not in the order of their stages")
    stages = {window.stage: window for window in assignment.windows}
    for stage, window in stages.items():
        if stage > MAX_STAGES:
            raise FrameError(f"stage {stage} is beyond the {MAX_STAGES} a route may have")
        nexts, grouped = set(window.next_nodes), window.HasField("group")
        if (window.head and nexts) or not (window.head or nexts or grouped):
            raise FrameError(f"stage {stage}: the route ends with the head and nowhere else")
        if strangers := nexts - peers:
            raise FrameError(f"stage {stage} leads to node {min(strangers)[:MAX_NAME]!r}, which is no peer")
        if grouped and nexts - {node} and list(window.group.nodes[:1]) != [node]:
            raise FrameError(f"stage {stage}: only the group's first member passes on what comes out")
        if (node in nexts) != (stage + 1 in stages):
            raise FrameError(f"stage {stage} leads to nodes {sorted(nexts)}, but who has stage {stage + 1}?")
        if stage + 1 in stages:
            _check_sampled(window, stages[stage + 1])


def _check_sampled(window: pb.Window, following: pb.Window) -> None:
    alone = following.head and following.first_layer == following.end_layer
    if window.next_wants_sampled != alone:
        raise FrameError(f"stage {window.stage}: sampled rows alone go to a head alone, and to nothing else")
