"""The callers' side: routes over HTTP. Each handler reads like a table of contents."""

from __future__ import annotations

import asyncio
import logging
from importlib.metadata import version
from time import perf_counter
from typing import Any, Final

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from foretell.errors import RoutingError
from foretell.gateway._answering import Answering
from foretell.gateway._apis import (
    CHAT,
    MESSAGES,
    RESPONSES,
    Dialect,
    joined,
    translated,
    translated_body,
)
from foretell.gateway._bodies import answer_json, parse_json
from foretell.gateway._callers import Caller
from foretell.gateway._chat_request import ChatRequest, chat_request, control_headers
from foretell.gateway._errors import ApiError
from foretell.gateway._exchange import Exchange, decision_block, decision_headers
from foretell.gateway._explaining import explained
from foretell.gateway._feedback import delete_feedback, list_feedback, put_feedback
from foretell.gateway._frames import error_frame
from foretell.gateway._gateway import Gateway
from foretell.gateway._http import (
    CallerGoneError,
    EventStream,
    body_of,
    json_response,
    not_here,
    unless_gone,
)
from foretell.gateway._openapi import describe
from foretell.gateway._responses_api import ResponsesStream, response_messages

_logger = logging.getLogger(__name__)

_CLIENT_CLOSED_REQUEST: Final = 499


def make_app(gateway: Gateway) -> FastAPI:
    """The application that callers talk to."""
    app = FastAPI(
        title="foretell",
        version=version("foretell"),
        description="Routes chat completions by what a small model's own activations foretell.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        # A redirect would send callers to whatever host their request named.
        redirect_slashes=False,
    )
    handlers = Handlers(gateway)
    post, get, delete = app.post, app.get, app.delete
    post("/v1/chat/completions")(handlers.chat_completions)
    post("/v1/responses")(handlers.responses)
    post("/v1/messages")(handlers.messages)
    post("/v1/route")(handlers.route)
    get("/v1/models")(handlers.models)
    get("/v1/models/{model}")(handlers.model)
    post("/v1/feedback")(handlers.post_feedback)
    get("/v1/feedback")(handlers.get_feedback)
    delete("/v1/feedback")(handlers.delete_feedback)
    get("/healthz")(handlers.healthz)
    get("/readyz")(handlers.readyz)
    get("/metrics")(handlers.metrics)
    app.add_exception_handler(ApiError, _told)
    app.add_exception_handler(CallerGoneError, _gone)
    app.add_exception_handler(RoutingError, _failed)
    app.add_exception_handler(HTTPException, _not_here)
    app.add_exception_handler(Exception, _failed)
    describe(app)
    return app


class Handlers:
    """The handlers of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def chat_completions(self, request: Request) -> Response:
        """Answer as OpenAI's chat completions API does."""
        return await self._answer(request, CHAT)

    async def responses(self, request: Request) -> Response:
        """Answer as OpenAI's responses API does."""
        return await self._answer(request, RESPONSES)

    async def messages(self, request: Request) -> Response:
        """Answer as Anthropic's messages API does."""
        return await self._answer(request, MESSAGES)

    async def route(self, request: Request) -> Response:
        """The decision and its explanation; nothing is generated, nothing kept."""
        exchange, _ = await self._admitted(request, CHAT)
        try:
            await unless_gone(
                request.receive, self._gateway.service.decide(exchange, look_only=True)
            )
            explanation = await unless_gone(
                request.receive, explained(exchange, self._gateway.executor)
            )
            model = _would_answer(exchange)
            block = decision_block(exchange, model, None)
            return json_response(
                {**block, "explanation": explanation}, headers=decision_headers(exchange, model)
            )
        finally:
            self._gateway.forget(exchange)

    async def models(self, request: Request) -> Response:
        """Routes and models by name: those that the caller may use."""
        caller = await self._caller(request)
        return json_response({"object": "list", "data": self._listed(caller)})

    async def model(self, request: Request) -> Response:
        """One of them."""
        caller = await self._caller(request)
        name = request.path_params["model"]
        for entry in self._listed(caller):
            if entry["id"] == name:
                return json_response(entry)
        raise ApiError(
            404, "no route or model has that name", code="model_not_found", param="model"
        )

    async def post_feedback(self, request: Request) -> Response:
        """Take what somebody says about an answer."""
        caller = await self._caller(request)
        return await put_feedback(self._gateway, caller, parse_json(await self._body(request)))

    async def get_feedback(self, request: Request) -> Response:
        """What was said about an answer."""
        caller = await self._caller(request)
        return await list_feedback(self._gateway, caller, request.query_params)

    async def delete_feedback(self, request: Request) -> Response:
        """Take back what was said about an answer."""
        caller = await self._caller(request)
        return await delete_feedback(self._gateway, caller, request.query_params)

    async def healthz(self, _: Request) -> Response:
        """Whether the process answers."""
        return json_response({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        """Whether the models are loaded, and what is amiss."""
        gateway = self._gateway
        snapshot = gateway.snapshot
        routes = {
            name: {"ready": route.waits_for is None}
            | ({} if route.waits_for is None else {"cause": route.waits_for.cause})
            for name, route in snapshot.routes.items()
        }
        targets = {name: target.breaker.state for name, target in snapshot.targets.items()}
        status = "draining" if gateway.draining else "ready" if gateway.ready else "loading"
        return json_response(
            {"status": status, "routes": routes, "targets": targets},
            status=200 if gateway.ready else 503,
        )

    async def metrics(self, request: Request) -> Response:
        """Prometheus' exposition."""
        body, content_type = self._gateway.metrics.render(request.headers.get("accept"))
        return Response(body, headers={"content-type": content_type})

    async def _answer(self, request: Request, dialect: Dialect) -> Response:
        try:
            exchange, raw = await self._admitted(request, dialect)
        except ApiError as error:
            self._gateway.metrics.rejected(error.code or "other")
            return json_response(dialect.error(error), status=error.status, headers=error.headers)
        answering: Answering | None = None
        status = 500
        handed_over = False
        try:
            answering = await unless_gone(request.receive, self._begun(exchange))
            exchange.head_s = exchange.overhead_s()
            if exchange.request.stream:
                handed_over = True
                return self._stream(exchange, answering, dialect, raw)
            body = answering.body()
            headers = decision_headers(exchange, answering.member)
            self._remember(exchange, dialect, raw, body)
            status = 200
            return json_response(
                translated_body(
                    dialect,
                    body,
                    response_id=exchange.response_id,
                    created=exchange.created,
                    raw=raw,
                ),
                headers=headers,
            )
        except ApiError as error:
            status = error.status
            headers = {"x-request-id": exchange.id, **error.headers}
            if exchange.decision is not None:
                headers |= decision_headers(exchange, exchange.request_name)
            return json_response(dialect.error(error), status=status, headers=headers)
        except CallerGoneError:
            status = _CLIENT_CLOSED_REQUEST
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        except asyncio.CancelledError:
            # Only a gateway that stops cancels a request: to say so is all that is left to do.
            error = _stopping()
            status, headers = error.status, {"x-request-id": exchange.id, **error.headers}
            return json_response(dialect.error(error), status=status, headers=headers)
        except Exception as error:
            _logger.exception("request %s failed", exchange.id)
            failure = _internal(error)
            headers = {"x-request-id": exchange.id}
            return json_response(dialect.error(failure), status=500, headers=headers)
        finally:
            if not handed_over:
                await self._gateway.finish(exchange, answering, status=status)

    def _stream(
        self, exchange: Exchange, answering: Answering, dialect: Dialect, raw: dict[str, Any]
    ) -> Response:
        headers = decision_headers(exchange, answering.member)
        frames = answering.frames()
        if dialect.stream is None:
            events, translator = joined(frames), None
        else:
            translator = dialect.stream(exchange.response_id, exchange.created, raw)
            events = translated(translator, frames)

        async def after() -> None:
            await events.aclose()
            await frames.aclose()
            status = 200 if answering.whole else _CLIENT_CLOSED_REQUEST
            if answering.failed is not None:
                status = answering.failed.status
            if isinstance(translator, ResponsesStream) and answering.whole:
                self._gateway.remember_response(exchange, raw, translator.output_messages())
            await self._gateway.finish(exchange, answering, status=status)

        def cut() -> bytes:
            answering.failed = _stopping()
            if translator is None:
                return error_frame(answering.failed)
            return b"".join(translator.failed(answering.failed.body()))

        return EventStream(events, headers=headers, cut=cut, after=after)

    async def _begun(self, exchange: Exchange) -> Answering:
        await self._gateway.service.decide(exchange)
        return await self._gateway.service.answer(exchange)

    def _remember(
        self, exchange: Exchange, dialect: Dialect, raw: dict[str, Any], body: bytes
    ) -> None:
        if dialect is RESPONSES:
            said = response_messages(answer_json(body), id=exchange.response_id)
            self._gateway.remember_response(exchange, raw, said)

    async def _admitted(
        self, request: Request, dialect: Dialect
    ) -> tuple[Exchange, dict[str, Any]]:
        started = perf_counter()
        caller = await self._caller(request)
        raw = parse_json(await self._body(request))
        previous = raw.get("previous_response_id") if dialect is RESPONSES else None
        earlier = (
            self._gateway.memory.messages(caller.key_id, previous)
            if isinstance(previous, str)
            else []
        )
        asked: ChatRequest = chat_request(dialect.to_chat(raw, earlier))
        control = control_headers(request.headers, also=self._gateway.snapshot.domain_headers)
        exchange = self._gateway.exchange(
            caller,
            asked,
            api=dialect.api,
            started=started,
            control=control,
            headers=request.headers,
            previous=previous,
            bound=dialect.bound(raw),
            id_prefix=dialect.id_prefix,
        )
        return exchange, raw

    async def _caller(self, request: Request) -> Caller:
        headers = request.headers
        admission = self._gateway.admission
        admission.require_own_machine(headers.get("host"), headers.get("origin"))
        return await admission.authenticate(headers.get("authorization"), headers.get("x-api-key"))

    async def _body(self, request: Request) -> bytes:
        server = self._gateway.snapshot.config.server
        return await body_of(
            request,
            max_bytes=int(server.max_body_mb * 2**20),
            timeout_s=server.header_timeout_s,
        )

    def _listed(self, caller: Caller) -> list[dict[str, Any]]:
        gateway = self._gateway
        created = int(gateway.active.at)
        names = [
            *((name, "route") for name in gateway.snapshot.routes),
            *((name, "model") for name in gateway.snapshot.members),
        ]
        return [
            {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": "foretell",
                "foretell": {"kind": kind},
            }
            for name, kind in names
            if caller.limits.routes is None or name in caller.limits.routes
        ]


def _would_answer(exchange: Exchange) -> str:
    decision, route = exchange.decision, exchange.route
    if decision is None or route is None:
        return exchange.request.model
    if decision.serve == "weak":
        return route.config.weak
    return decision.target or route.config.strong[0]


def _stopping() -> ApiError:
    return ApiError(
        503, "the gateway is being stopped", code="stopping", headers={"Retry-After": "1"}
    )


def _internal(error: Exception) -> ApiError:
    del error  # its text may hold anything
    return ApiError(500, "the gateway failed; the log says how, under this request's id")


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for these
    return _shaped(request, error)


async def _gone(_: Request, error: Exception) -> Response:
    del error
    return Response(status_code=_CLIENT_CLOSED_REQUEST)


async def _failed(request: Request, error: Exception) -> Response:
    _logger.error("a request failed", exc_info=error)
    return _shaped(request, _internal(error))


async def _not_here(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for these
    return _shaped(request, not_here(request, error))


def _shaped(request: Request, error: ApiError) -> Response:
    """As the API that was asked shapes its errors."""
    shape = MESSAGES.error if request.url.path == "/v1/messages" else CHAT.error
    return json_response(shape(error), status=error.status, headers=error.headers)
