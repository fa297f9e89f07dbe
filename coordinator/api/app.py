"""The HTTP application: routes, error answers, and who may ask."""

from __future__ import annotations

import time

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from potluck.coordinator.api.about import MetricsPage, Report, about_routes, model_routes, token_routes
from potluck.coordinator.api.body import ClientGone
from potluck.coordinator.api.chat import chat_routes
from potluck.coordinator.api.completions import completion_routes
from potluck.coordinator.api.errors import ApiError, error_response, from_generation
from potluck.coordinator.api.http_metrics import HttpCounts
from potluck.coordinator.api.options import ApiOptions
from potluck.coordinator.api.security import HostCheck, KeyCheck
from potluck.coordinator.api.service import Service
from potluck.coordinator.api.texts import Texts
from potluck.coordinator.generation import Engine, GenerationError
from potluck.models.tokenizer import Tokenizer


def create_app(
    engine: Engine, tokenizer: Tokenizer, options: ApiOptions, metrics: MetricsPage, report: Report = dict
) -> FastAPI:
    """The API over an engine. `metrics` is rendered at /metrics and takes the API's own counts; `report` is what
    /status says beside the queue."""
    service = Service(engine, Texts(tokenizer, options.inline_text), options, int(time.time()))
    # No pages of docs: FastAPI's load scripts from elsewhere, and a home server may have no internet.
    app = FastAPI(title="Potluck", openapi_url=None, docs_url=None, redoc_url=None)
    for router in (
        completion_routes(service),
        chat_routes(service),
        model_routes(service),
        token_routes(service),
        about_routes(service, metrics, report),
    ):
        app.include_router(router)
    _answer_errors(app)
    _guard(app, options, metrics)
    return app


def _guard(app: FastAPI, options: ApiOptions, metrics: MetricsPage) -> None:
    """Each middleware added is outside those before: counts, then host, then CORS (its preflights carry no key)."""
    if options.api_keys:
        app.add_middleware(KeyCheck, keys=options.api_keys)
    if options.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=options.cors_origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(HostCheck, allowed=options.allowed_hosts, origins=options.cors_origins)
    app.add_middleware(HttpCounts, registry=metrics.registry)


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return error_response(error)

    @app.exception_handler(GenerationError)
    async def generation_error(request: Request, error: GenerationError) -> Response:
        return error_response(from_generation(error))

    @app.exception_handler(ClientGone)
    async def client_gone(request: Request, error: ClientGone) -> Response:
        # Read by nobody but the counts.
        return Response(status_code=499)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return error_response(_routing_error(request, error))

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        # The server's log has the traceback: Starlette raises it again after this answer.
        return error_response(ApiError("the server made a mistake; its log says more", status=500))


def _routing_error(request: Request, error: HTTPException) -> ApiError:
    method, path = request.method[:20], request.url.path[:100]
    known = {
        404: f"there is nothing at {path}; the API is under /v1",
        405: f"{method} is not served at {path}",
    }
    answer = ApiError(known.get(error.status_code, str(error.detail)), status=error.status_code)
    answer.headers.update(error.headers or {})
    return answer
