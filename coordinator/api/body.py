"""From the bytes of a request to a checked body."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from potluck.coordinator.api.errors import ApiError, from_validation
from potluck.coordinator.api.options import ApiOptions

Body = TypeVar("Body", bound=BaseModel)
# Many clients read an answer only after they have sent everything, so a body that is not much too large is read and
# dropped before it is refused.
_READ_ANYWAY = 4


class ClientGone(Exception):
    """The client left before its answer; there is nobody to tell."""


def parse(raw: bytes, schema: type[Body]) -> Body:
    """The checked body.

    Raises:
        ApiError: 400 for anything that is not a JSON object with the right types in the known fields.
    """
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(data, dict):
        raise ApiError("the body must be a JSON object", code="invalid_json")
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise from_validation(error) from None


async def read(request: Request, schema: type[Body], options: ApiOptions) -> Body:
    """Receive and check a body.

    Raises:
        ApiError: 400 for a bad body, 408 where it does not arrive in time, 413 where it is too large.
        ClientGone: the client left while sending.
    """
    try:
        async with asyncio.timeout(options.body_timeout_s):
            raw = await _receive(request, options.max_body_bytes)
    except TimeoutError:
        late = ApiError(f"the body did not arrive within {options.body_timeout_s:g} s", status=408)
        late.headers["Connection"] = "close"
        raise late from None
    except ClientDisconnect:
        raise ClientGone from None
    return parse(raw, schema)


async def _receive(request: Request, limit: int) -> bytes:
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > _READ_ANYWAY * limit:
        raise _too_large(limit)
    raw, received = bytearray(), 0
    async for piece in request.stream():
        received += len(piece)
        if received <= limit:
            raw += piece
        elif received > _READ_ANYWAY * limit:
            break
    if received > limit:
        raise _too_large(limit)
    return bytes(raw)


def _too_large(limit: int) -> ApiError:
    error = ApiError(f"the body is larger than {limit} bytes", status=413, code="request_too_large")
    error.headers["Connection"] = "close"
    return error
