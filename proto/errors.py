"""What can be wrong with a message from another process, and the gRPC status each wrong earns."""

from __future__ import annotations

from enum import Enum

import grpc


class Refusal(Enum):
    """Why a message is refused; the value is the gRPC status its sender gets."""

    MALFORMED = grpc.StatusCode.INVALID_ARGUMENT
    CHECKSUM = grpc.StatusCode.DATA_LOSS
    MISMATCH = grpc.StatusCode.FAILED_PRECONDITION  # another epoch or protocol version than ours
    OVERSIZED = grpc.StatusCode.RESOURCE_EXHAUSTED
    STARTING = grpc.StatusCode.UNAVAILABLE
    TOKEN = grpc.StatusCode.UNAUTHENTICATED


class FrameError(ValueError):
    """A message from another process that cannot be right. One line; `refusal` says what is wrong with it."""

    def __init__(self, reason: str, refusal: Refusal = Refusal.MALFORMED) -> None:
        super().__init__(reason)
        self.reason = reason
        self.refusal = refusal

    @property
    def status(self) -> grpc.StatusCode:
        """The gRPC status that tells the sender."""
        status: grpc.StatusCode = self.refusal.value
        return status
