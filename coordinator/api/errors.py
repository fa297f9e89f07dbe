"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from pydantic import ValidationError
from starlette.responses import Response

from potluck.coordinator.generation import GenerationError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# A client should try again soon: a node that left is planned around within seconds.
_RETRY_AFTER_S = 5


class ApiError(Exception):
    """A request that cannot be served, by the client's fault unless `status` says otherwise.

    `message` is one line for the user, `param` the field at fault and `code` a word for programs.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code
        self.headers: dict[str, str] = {}

    def body(self) -> dict[str, object]:
        """The JSON body of the answer."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def from_generation(error: GenerationError) -> ApiError:
    """The answer to a request that the engine could not serve."""
    codes = {400: "invalid_value", 429: "queue_full", 503: "unavailable"}
    answer = ApiError(error.message, status=error.status, code=codes.get(error.status))
    if error.status in (429, 503):
        answer.headers["Retry-After"] = str(error.retry_after or _RETRY_AFTER_S)
    return answer


def from_validation(error: ValidationError) -> ApiError:
    """The answer to a body whose known fields have wrong types or values: names the first of them."""
    first = error.errors(include_url=False, include_context=False)[0]
    param = ".".join(str(piece) for piece in first["loc"]) or None
    if first["type"] == "missing":
        return ApiError(f"you must provide '{param}'", param=param, code="missing_required_parameter")
    return ApiError(
        f"'{param}': {_lower(first['msg'])}, not {_shown(first['input'])}", param=param, code="invalid_value"
    )


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    body = orjson.dumps(content)
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def error_response(error: ApiError) -> Response:
    """The HTTP answer that carries an error."""
    return json_response(error.body(), error.status, error.headers)


def _shown(given: object) -> str:
    """A short name for a wrong value. Large ones are not printed: they may be nested deeper than Python can."""
    match given:
        case str():
            return repr(given if len(given) <= 60 else given[:60] + "...")
        case None | bool() | int() | float():
            return repr(given)[:60]
    return "an object" if isinstance(given, dict) else "a list"


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
