"""The token, on a real server that knows every kind of call."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from potluck.proto import cluster_pb2 as pb
from potluck.proto import cluster_pb2_grpc as rpc
from potluck.proto.auth import TokenCheck
from potluck.proto.channel import open_channel, worker_stub

TOKEN = "t" * 32


class Echo(rpc.WorkerServicer):
    """One call of each kind."""

    def Hello(self, request, context):
        return pb.HelloReply(node="n")

    def Fetch(self, request, context):
        yield pb.Chunk(offset=7)

    def Forward(self, request_iterator, context):
        yield from request_iterator


@pytest.fixture(scope="module")
def address():
    server = grpc.server(ThreadPoolExecutor(4), interceptors=[TokenCheck(TOKEN)])
    rpc.add_WorkerServicer_to_server(Echo(), server)
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def calls(channel):
    """Every kind of call, as a function."""
    stub = worker_stub(channel)
    check = health_pb2_grpc.HealthStub(channel).Check
    return {
        "unary": lambda: stub.Hello(pb.HelloRequest(), timeout=5),
        "answered by a stream": lambda: list(stub.Fetch(pb.FetchRequest(), timeout=5)),
        "streams": lambda: list(stub.Forward(iter([pb.Frame(header=b"x")]), timeout=5)),
        "a stream that sends nothing": lambda: list(stub.Forward(iter([]), timeout=5)),
        "health": lambda: check(health_pb2.HealthCheckRequest(), timeout=5),
    }


KINDS = sorted(calls(grpc.insecure_channel("127.0.0.1:1")))


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_token(address, kind):
    with open_channel(address, TOKEN) as channel:
        calls(channel)[kind]()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("token", [None, "u" * 32, TOKEN + "x", TOKEN[:-1]])
def test_without(address, kind, token):
    channel = grpc.insecure_channel(address) if token is None else open_channel(address, token)
    with channel, pytest.raises(grpc.RpcError) as caught:
        calls(channel)[kind]()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert TOKEN not in caught.value.details()


def test_an_empty_token_guards_nothing():
    with pytest.raises(ValueError, match="empty"):
        TokenCheck("")
