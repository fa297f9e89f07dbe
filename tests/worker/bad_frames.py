"""Frames that no worker should take, and the status each of them earns: tests get each as the fixture `bad_frame`."""

import grpc
from msgspec import msgpack
from msgspec.structs import replace

from potluck.proto import cluster_pb2 as pb
from potluck.proto.frames import Frame, Kind, pack_frame, step_frame
from potluck.proto.step import Outputs, Run, Step

Code = grpc.StatusCode
STEP = step_frame(1, Step(1, [Run(1, 0, [5], [0], Outputs.LAST)]))


def altered(frame, index, value):
    (message,) = pack_frame(frame)
    header = msgpack.decode(message.header)
    header[index] = value
    return pb.Frame(header=msgpack.encode(header), payload=message.payload)


CASES = {
    "garbage": (lambda e: [pb.Frame(header=b"\xc1garbage")], Code.INVALID_ARGUMENT),
    "empty": (lambda e: [pb.Frame()], Code.INVALID_ARGUMENT),
    "another protocol": (lambda e: [altered(replace(STEP, epoch=e), 0, 9)], Code.FAILED_PRECONDITION),
    "flipped byte": (lambda e: [altered(replace(STEP, epoch=e), 7, 1)], Code.DATA_LOSS),
    "wrong epoch": (lambda e: pack_frame(replace(STEP, epoch=e + 1000)), Code.FAILED_PRECONDITION),
    "unknown stage": (lambda e: pack_frame(replace(STEP, epoch=e, stage=9)), Code.INVALID_ARGUMENT),
    "a result": (lambda e: pack_frame(replace(STEP, epoch=e, kind=Kind.RESULT)), Code.INVALID_ARGUMENT),
    "a step that is none": (lambda e: pack_frame(replace(STEP, epoch=e, body=b"\x93")), Code.INVALID_ARGUMENT),
    "another step's number": (lambda e: pack_frame(replace(STEP, epoch=e, number=5)), Code.INVALID_ARGUMENT),
    "rows of another width": (
        lambda e: pack_frame(Frame(e, 1, 0, Kind.HIDDEN, STEP.body, (), "float32", (1, 2), bytes(8))),
        Code.INVALID_ARGUMENT,
    ),
    "more rows than agreed": (
        lambda e: pack_frame(Frame(e, 1, 0, Kind.HIDDEN, STEP.body, (), "float32", (65, 64), bytes(65 * 256))),
        Code.INVALID_ARGUMENT,
    ),
    "a gigabyte declared": (
        lambda e: [altered(Frame(e, 1, 0, Kind.HIDDEN, b"", (), "float32", (0, 0)), 6, [16384, 16384])],
        Code.RESOURCE_EXHAUSTED,
    ),
    "a part without the first": (
        lambda e: [list(pack_frame(Frame(e, 1, 0, Kind.HIDDEN, b"", (), "float32", (64, 8192), bytes(1 << 21))))[1]],
        Code.INVALID_ARGUMENT,
    ),
    "64 MiB in a message": (lambda e: [pb.Frame(header=b"x", payload=bytes(64 << 20))], Code.RESOURCE_EXHAUSTED),
}
