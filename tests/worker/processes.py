"""Real worker processes and what a coordinator would send them. Test modules use the fixture `processes`."""

import contextlib
import json
import queue
import threading
import time
from dataclasses import dataclass

import grpc

from potluck.coordinator.processes import WorkerLaunch, spawn_worker
from potluck.models.open import open_checkpoint, read_spec
from potluck.models.spec_codec import pack_spec
from potluck.proto import cluster_pb2 as pb
from potluck.proto.channel import PROTOCOL, open_channel, worker_stub
from potluck.proto.frames import Kind, read_fault, read_result, step_frame
from potluck.proto.link import LinkTarget
from potluck.proto.open_link import open_link
from potluck.proto.step import Outputs, Run, Sampling, Step

TOKEN = "t" * 32
PROMPT = [5, 9, 17, 33, 2, 8]
BLOCK = 16


class Worker:
    """One process, its channel and stub. With wire "grpc" its data port is ignored."""

    def __init__(self, name, cache, memory=None, emulate=None, wire="tcp", launch=WorkerLaunch):
        self.log = cache / f"{name}.log"
        text = json.dumps(emulate) if emulate else None
        launch = launch(name, str(cache / name), memory=memory, emulate=text, log=str(self.log))
        self.process = spawn_worker(launch, TOKEN)
        self.name, self.address, self.pid = name, self.process.address, self.process.pid
        self.channel = open_channel(self.address, TOKEN)
        self.stub = worker_stub(self.channel)
        hello = self.stub.Hello(pb.HelloRequest(protocol=PROTOCOL), timeout=5)
        self.data_port = hello.data_port if wire == "tcp" else 0

    def load(self, assignment):
        """All progress messages of a Load."""
        return list(self.stub.Load(assignment, timeout=60))

    def status(self):
        return self.stub.Status(pb.StatusRequest(), timeout=60)

    def release(self, epoch):
        self.stub.Release(pb.ReleaseRequest(epoch=epoch), timeout=5)

    def close(self):
        self.channel.close()
        return self.process.stop()


class Model:
    """A tiny model on disk, and assignments of it."""

    def __init__(self, path):
        self.path, self.spec = path, read_spec(path)
        self.fingerprint = open_checkpoint(path).fingerprint

    def assignment(self, epoch, windows, workers, **changes):
        base = pb.Assignment(
            protocol=PROTOCOL,
            epoch=epoch,
            spec=pack_spec(self.spec),
            checkpoint=str(self.path),
            fingerprint=self.fingerprint,
            dtype="float32",
            windows=windows,
            kv_blocks=32,
            block_size=BLOCK,
            peers=[pb.Peer(node=one.name, address=one.address, data_port=one.data_port) for one in workers],
            checkpoint_allowed=True,
            max_rows=64,
        )
        base.MergeFrom(pb.Assignment(**{k: v for k, v in changes.items() if k != "checkpoint_allowed"}))
        base.checkpoint_allowed = changes.get("checkpoint_allowed", True)
        return base

    def whole(self, epoch, worker, **changes):
        window = pb.Window(stage=0, embedding=True, end_layer=len(self.spec.layers), head=True)
        return self.assignment(epoch, [window], [worker], **changes)

    def halves(self, epoch, first, second, head_first=False):
        """One assignment per worker; `head_first` brings the ring back to the first worker for the head."""
        middle, end = len(self.spec.layers) // 2, len(self.spec.layers)
        both = [first, second]
        a = [pb.Window(stage=0, embedding=True, end_layer=middle, next_nodes=[second.name])]
        b = pb.Window(stage=1, first_layer=middle, end_layer=end, head=not head_first)
        if head_first:
            b.next_nodes.append(first.name)
            b.next_wants_sampled = True
            a.append(pb.Window(stage=2, head=True))
        return self.assignment(epoch, a, both), self.assignment(epoch, [b], both)

    def grouped(self, epoch, workers, cuts, algorithm="direct", **changes):
        """One assignment per worker: a group that has everything in one stage, split as the cuts say."""
        return [self._grouped(epoch, workers, cuts, place, algorithm, changes) for place in range(len(workers))]

    def _grouped(self, epoch, workers, cuts, place, algorithm, changes):
        (first_head, end_head), (first_column, end_column) = cuts[place].heads, cuts[place].columns
        group = pb.Group(
            nodes=[worker.name for worker in workers],
            first_head=first_head,
            end_head=end_head,
            first_column=first_column,
            end_column=end_column,
            first_rows=[cut.vocabulary[0] for cut in cuts],
            end_rows=[cut.vocabulary[1] for cut in cuts],
            wire="float32",
            reductions=[pb.Reduction(algorithm=algorithm)],
        )
        window = pb.Window(stage=0, embedding=True, end_layer=len(self.spec.layers), head=True, group=group)
        return self.assignment(epoch, [window], workers, **changes)


@dataclass
class Broken:
    node: str
    status: grpc.StatusCode
    detail: str


class Client:
    """Links to some workers under one epoch, as a coordinator has them; the first `entries` workers have stage 0."""

    def __init__(self, epoch, *workers, entries=1):
        self.epoch, self.number, self.inbox, self.entries = epoch, 0, queue.SimpleQueue(), entries
        self.links = [self._link(worker) for worker in workers]

    def _link(self, worker):
        target = LinkTarget(
            "engine", worker.name, worker.address, TOKEN, self.epoch, "coordinator", data_port=worker.data_port
        )
        return open_link(target, self.inbox.put, lambda *what: self.inbox.put(Broken(*what)))

    def send(self, runs, dropped=()):
        self.number += 1
        frame = step_frame(self.epoch, Step(self.number, list(runs), list(dropped)))
        for link in self.links[: self.entries]:
            link.send(frame, 5.0)

    def get(self, timeout=20.0):
        """The next Result, Fault or Broken."""
        item = self.inbox.get(timeout=timeout)
        if isinstance(item, Broken):
            return item
        return read_result(item) if item.kind is Kind.RESULT else read_fault(item)

    def generate(self, prompt, count, sequence=1):
        """Greedy tokens, one step at a time."""
        blocks = list(range(-(-(len(prompt) + count) // BLOCK)))
        tokens, position = [], 0
        new = list(prompt)
        while len(tokens) < count:
            sampling = Sampling(temperature=0.0) if position == 0 else None
            self.send([Run(sequence, position, new, blocks if position == 0 else [], Outputs.LAST, sampling)])
            position += len(new)
            new = [self.get().outcomes[0].token]
            tokens += new
        self.send([], [sequence])
        assert self.get().outcomes == []
        return tokens

    def close(self):
        for link in self.links:
            link.close()


class Neighbour:
    """Someone else's epoch on the same worker, generating all the time."""

    def __init__(self, client, expected):
        self.rounds, self.wrong = 0, []
        self._client, self._expected, self._over = client, expected, threading.Event()
        self._thread = threading.Thread(target=self._generate)
        self._thread.start()

    def _generate(self):
        while not self._over.is_set() and not self.wrong:
            try:
                tokens = self._client.generate(PROMPT, 4)
            except (queue.Empty, AttributeError) as error:
                tokens = error
            self.rounds += 1
            if tokens != self._expected:
                self.wrong.append(tokens)

    def end(self):
        self._over.set()
        self._thread.join(20)


@contextlib.contextmanager
def client(epoch, *workers, entries=1):
    """A Client, closed at the end."""
    made = Client(epoch, *workers, entries=entries)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def running(*workers):
    """Workers, ended at the end."""
    try:
        yield workers
    finally:
        for worker in workers:
            worker.close()


def refusal(call):
    """Status and detail of a call that has to fail."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("the call succeeded")


def wait_for(condition, seconds):
    """Whether the condition came true in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
