"""The endpoints about the server: what it serves, how it is, and what its tokens are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response

from potluck.coordinator.api import body
from potluck.coordinator.api.errors import ApiError, json_response
from potluck.coordinator.api.prompts import check_tokens, parse_messages
from potluck.coordinator.api.schema import DetokenizeBody, TokenizeBody
from potluck.coordinator.api.service import Service


class MetricsPage(Protocol):
    """The page that Prometheus reads; the API's own counts join its registry."""

    registry: CollectorRegistry

    def render(self) -> bytes:
        """The page in Prometheus' text format."""


Report = Callable[[], Mapping[str, object]]


def about_routes(service: Service, metrics: MetricsPage, report: Report) -> APIRouter:
    """The endpoints for people and machines that look after the server; `report` is what the deployment adds to
    `/status`."""
    router = APIRouter()

    @router.get("/")
    async def index() -> Response:
        served = service.models()
        links = {"api": "/v1", "models": "/v1/models", "health": "/health", "status": "/status", "metrics": "/metrics"}
        return json_response({"name": "potluck", "model": served[0], **links})

    @router.get("/health")
    async def health() -> Response:
        return _health(service)

    @router.get("/status")
    async def status() -> Response:
        return json_response(_queue(service) | dict(report()))

    @router.get("/metrics")
    async def page() -> Response:
        # Set as a header: Starlette would append a second charset to a media type.
        return Response(metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router


def model_routes(service: Service) -> APIRouter:
    """The endpoints that list what is served."""
    router = APIRouter()

    @router.get("/v1/models")
    async def models() -> Response:
        return json_response({"object": "list", "data": [_model(service, name) for name in service.models()]})

    # An id may be a hub's org/name.
    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        service.check_model(name)
        return json_response(_model(service, name))

    return router


def token_routes(service: Service) -> APIRouter:
    """The endpoints that turn text into token ids and back, answering in the forms of llama.cpp and vLLM."""
    router = APIRouter()

    @router.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        asked = await body.read(request, TokenizeBody, service.options)
        if asked.model is not None:
            service.check_model(asked.model)
        tokens = await _tokens(asked, service)
        context = service.engine.context
        return json_response({"tokens": tokens, "count": len(tokens), "max_model_len": context})

    @router.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        asked = await body.read(request, DetokenizeBody, service.options)
        if asked.model is not None:
            service.check_model(asked.model)
        check_tokens(asked.tokens, service.texts.tokenizer.vocab_size, "tokens")
        text = await service.texts.text(asked.tokens)
        return json_response({"content": text, "prompt": text})

    return router


async def _tokens(asked: TokenizeBody, service: Service) -> list[int]:
    if asked.messages is not None:
        begin = asked.add_generation_prompt is not False
        return list(await service.texts.chat(parse_messages(asked.messages), begin))
    text = asked.content if asked.content is not None else asked.prompt
    if text is None:
        raise ApiError("you must provide 'content', 'prompt' or 'messages'", param="content")
    # vLLM adds the first token unless told not to, llama.cpp only when told to.
    default = asked.content is None
    special = asked.add_special if asked.add_special is not None else asked.add_special_tokens
    if not (default if special is None else special):
        return await service.texts.plain(text)
    return list(await service.texts.prompt(text))


def _model(service: Service, name: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": service.started,
        "owned_by": "potluck",
        "root": service.engine.model,
        "max_model_len": service.engine.context,
    }


def _queue(service: Service) -> dict[str, object]:
    status = service.engine.status()
    return {
        "name": "potluck",
        "model": service.engine.model,
        "context": service.engine.context,
        "ready": status.ready,
        "reason": status.reason,
        "running": status.running,
        "waiting": status.waiting,
        "kv_used": status.kv_used,
        "tokens_per_second": status.tokens_per_second,
    }


def _health(service: Service) -> Response:
    status = service.engine.status()
    content = {
        "status": "ok" if status.ready else "unavailable",
        "reason": status.reason,
        "model": service.engine.model,
        "running": status.running,
        "waiting": status.waiting,
        "kv_used": status.kv_used,
        "nodes": [{"node": node.node, "alive": node.alive} for node in status.nodes],
    }
    return json_response(content, 200) if status.ready else json_response(content, 503, {"Retry-After": "5"})
