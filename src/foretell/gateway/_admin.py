"""The side of those who run the gateway: on a listener of its own, for roles."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final, Literal

import yaml
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from foretell.config import AdminConfig, parse_config, secret
from foretell.errors import ConfigError, InputError, RoutingError
from foretell.gateway import _admin_flywheel, _desk
from foretell.gateway._errors import ApiError
from foretell.gateway._gateway import LONG_STORE_S, Gateway
from foretell.gateway._http import body_of, error_response, json_response, not_here
from foretell.gateway._snapshot import config_hash

_logger = logging.getLogger(__name__)

AdminRole = Literal["viewer", "admin"]

_ROLES: Final[Mapping[str, AdminRole]] = {"viewer": "viewer", "admin": "admin"}
_MOST_BYTES: Final = 1 << 20


class AdminTokens:
    """Who may look and who may change; tokens are compared as hashes, in constant time."""

    def __init__(self, tokens: Mapping[str, AdminRole]) -> None:
        self._hashes: dict[str, AdminRole] = {
            _sha256(token): role for token, role in tokens.items()
        }

    @classmethod
    def from_config(cls, config: AdminConfig) -> AdminTokens:
        """From the variable that ``token_env`` names; raises ``ConfigError``."""
        tokens: dict[str, AdminRole] = {}
        for pair in secret(config.token_env).split(","):
            role, mark, token = pair.strip().partition(":")
            known = _ROLES.get(role)
            if not mark or known is None or not token.strip():
                raise ConfigError(
                    f"{config.token_env} must hold 'role:token' pairs separated by commas, with "
                    f"the roles {' and '.join(_ROLES)}"
                )
            tokens[token.strip()] = known
        return cls(tokens)

    def role(self, authorization: str | None) -> AdminRole | None:
        """The role of a bearer token; ``None`` for anything else."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        given = _sha256(token.strip())
        found: AdminRole | None = None
        for known, role in self._hashes.items():
            if hmac.compare_digest(known, given):
                found = role
        return found


def make_admin_app(gateway: Gateway, tokens: AdminTokens) -> FastAPI:
    """The application on the admin listener."""
    app = FastAPI(
        title="foretell admin",
        version=version("foretell"),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    handlers = _AdminHandlers(gateway, tokens)
    app.get("/admin/config")(handlers.show)
    app.post("/admin/config")(handlers.change)
    app.get("/admin/config/versions")(handlers.versions)
    app.post("/admin/rollback")(handlers.roll_back)
    app.post("/admin/reload")(handlers.reload)
    app.get("/admin/ledger")(handlers.ledger)
    app.get("/admin/state")(handlers.state)
    app.get("/admin/probes")(handlers.probes)
    app.post("/admin/probes/{domain}/promote")(handlers.promote_probe)
    app.post("/admin/probes/{domain}/rollback")(handlers.roll_back_probe)
    app.get("/admin/events")(handlers.events)
    app.get("/admin/jobs")(handlers.jobs)
    app.post("/admin/jobs")(handlers.add_job)
    app.get("/admin/labels")(handlers.label_queue)
    app.post("/admin/labels")(handlers.put_labels)
    app.delete("/admin/labels")(handlers.undo_label)
    app.add_exception_handler(ApiError, _told)
    app.add_exception_handler(HTTPException, _not_here)
    app.add_exception_handler(Exception, _failed)
    return app


class _AdminHandlers:
    def __init__(self, gateway: Gateway, tokens: AdminTokens) -> None:
        self._gateway = gateway
        self._tokens = tokens

    async def show(self, request: Request) -> Response:
        """The active configuration, its hash, and that of the file."""
        self._require(request, "viewer")
        active = self._gateway.active
        file_hash = await asyncio.to_thread(self._gateway.file_hash)
        return json_response(
            {
                "hash": active.hash,
                "file_hash": file_hash,
                "by": active.by,
                "activated_at": active.at,
                "config": active.config.model_dump(mode="json"),
            },
            headers={"etag": _etag(active.hash)},
        )

    async def change(self, request: Request) -> Response:
        """Validate a configuration (YAML or JSON) and serve by it.

        ``If-Match`` refuses the change when another one was made meanwhile; ``?dry_run=true``
        validates alone.
        """
        role = self._require(request, "admin")
        dry_run = _flag(request, "dry_run")
        body = await body_of(request, max_bytes=_MOST_BYTES, timeout_s=30)
        settings = await asyncio.to_thread(_settings, body)
        try:
            config = parse_config(settings, where="config")
            if dry_run:
                self._gateway.check(config)
                return json_response({"valid": True, "hash": config_hash(config)})
            active = await self._gateway.change(config, by=role, expected=_expected(request))
        except RoutingError as error:
            raise _unusable(error) from None
        return _active(active)

    async def reload(self, request: Request) -> Response:
        """Serve by the file as it is now, as on SIGHUP."""
        role = self._require(request, "admin")
        try:
            return _active(await self._gateway.reload(by=role, expected=_expected(request)))
        except RoutingError as error:
            raise _unusable(error) from None

    async def roll_back(self, request: Request) -> Response:
        """Serve by the configuration before the active one."""
        role = self._require(request, "admin")
        if not self._gateway.previous:
            raise ApiError(
                409, "there is no earlier configuration to go back to", code="no_earlier_config"
            )
        try:
            return _active(await self._gateway.roll_back(by=role, expected=_expected(request)))
        except RoutingError as error:
            raise _unusable(error) from None

    async def versions(self, request: Request) -> Response:
        """The active configuration and those before it, the newest first."""
        self._require(request, "viewer")
        versions = [self._gateway.active, *reversed(self._gateway.previous)]
        found = [
            {"hash": version.hash, "by": version.by, "activated_at": version.at}
            for version in versions
        ]
        return json_response({"object": "list", "data": found})

    async def ledger(self, request: Request) -> Response:
        """Requests, tokens, cost and net saving per day, key and route."""
        self._require(request, "viewer")
        await self._gateway.flushed()
        since = request.query_params.get("since_day")
        try:
            lines = await self._gateway.with_store(
                lambda store: store.ledger(since_day=since), patience_s=LONG_STORE_S
            )
        except InputError as error:
            raise ApiError(400, str(error), code="invalid_value", param="since_day") from None
        found = [{**asdict(line), "net_saving_usd": line.net_saving_usd} for line in lines]
        return json_response({"object": "list", "data": found})

    async def state(self, request: Request) -> Response:
        """What is going on: breakers, bars, shares, requests under way, how the store does."""
        self._require(request, "viewer")
        gateway = self._gateway
        snapshot = gateway.snapshot
        routes = {
            name: {
                "waits_for": None if route.waits_for is None else route.waits_for.reason,
                "domains": {
                    domain: {
                        "keep_at": min(side.control.keep_at, 1.0),
                        "reason": side.control.bar_reason,
                        "strong_share": side.control.strong_share,
                    }
                    for domain, side in route.sides.items()
                },
            }
            for name, route in snapshot.routes.items()
        }
        targets = {name: target.breaker.state for name, target in snapshot.targets.items()}
        store = gateway.store_state()
        return json_response(
            {
                "in_flight": gateway.admission.in_flight,
                "tasks": len(asyncio.all_tasks()),
                "routes": routes,
                "targets": targets,
                "store": None if store is None else asdict(store),
            }
        )

    async def probes(self, request: Request) -> Response:
        """Trained probes by domain, which serves and which is on trial."""
        self._require(request, "viewer")
        return json_response(await _admin_flywheel.probes(self._gateway))

    async def promote_probe(self, request: Request, domain: str) -> Response:
        """Serve by the version that the body names: ``{"version": 3}``."""
        role = self._require(request, "admin")
        body = await body_of(request, max_bytes=_MOST_BYTES, timeout_s=30)
        found = await _admin_flywheel.promote_probe(self._gateway, domain, body, by=role)
        return json_response(found)

    async def roll_back_probe(self, request: Request, domain: str) -> Response:
        """Serve by the version before."""
        role = self._require(request, "admin")
        body = await body_of(request, max_bytes=_MOST_BYTES, timeout_s=30)
        found = await _admin_flywheel.roll_back_probe(self._gateway, domain, body, by=role)
        return json_response(found)

    async def events(self, request: Request) -> Response:
        """What was decided and noticed: promotions, alarms, steps of the ladder."""
        self._require(request, "viewer")
        return json_response(await _admin_flywheel.events(self._gateway, request.query_params))

    async def jobs(self, request: Request) -> Response:
        """Long work, with its progress."""
        self._require(request, "viewer")
        return json_response(await _admin_flywheel.jobs(self._gateway, request.query_params))

    async def add_job(self, request: Request) -> Response:
        """Ask for long work: ``{"kind": "refit", "domain": "support"}``."""
        role = self._require(request, "admin")
        body = await body_of(request, max_bytes=_MOST_BYTES, timeout_s=30)
        return json_response(await _admin_flywheel.add_job(self._gateway, body, by=role))

    async def label_queue(self, request: Request) -> Response:
        """Answers for ``author`` to judge: ``?domain=…&metric=…&author=…``."""
        self._require(request, "admin")  # they show what was asked and answered
        return json_response(await _desk.queue(self._gateway, request.query_params))

    async def put_labels(self, request: Request) -> Response:
        """What a person says of them: right, wrong or skip."""
        self._require(request, "admin")
        body = await body_of(request, max_bytes=_MOST_BYTES, timeout_s=30)
        return json_response(await _desk.put(self._gateway, body))

    async def undo_label(self, request: Request) -> Response:
        """Take one back: ``?domain=…&metric=…&author=…&key=…``."""
        self._require(request, "admin")
        return json_response(await _desk.undo(self._gateway, request.query_params))

    def _require(self, request: Request, least: AdminRole) -> AdminRole:
        role = self._tokens.role(request.headers.get("authorization"))
        if role is None:
            raise ApiError(401, "an admin token is needed", code="invalid_token")
        if least == "admin" and role != "admin":
            raise ApiError(403, "the role admin is needed for that", code="role_not_allowed")
        return role


def _settings(body: bytes) -> Any:
    try:
        return yaml.safe_load(body.decode())
    except (ValueError, yaml.YAMLError, RecursionError):  # ValueError: a date like 2026-13-40
        raise ApiError(
            400, "the body is neither YAML nor JSON that can be read", code="invalid_config"
        ) from None


def _flag(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "false")
    if value not in ("true", "false"):
        raise ApiError(400, f"{name} must be true or false", code="invalid_value", param=name)
    return value == "true"


def _expected(request: Request) -> str | None:
    """The hash that ``If-Match`` names; ``None`` where any will do."""
    wanted = request.headers.get("if-match", "*").strip()
    return None if wanted == "*" else wanted.removeprefix("W/").strip('"')


def _unusable(error: RoutingError) -> ApiError:
    if isinstance(error, ApiError):
        return error
    return ApiError(422, str(error), code="invalid_config")


def _active(active_hash: str) -> Response:
    return json_response({"hash": active_hash}, headers={"etag": _etag(active_hash)})


def _etag(active_hash: str) -> str:
    return f'"{active_hash}"'


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


async def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for these
    return error_response(error)


async def _not_here(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for these
    return error_response(not_here(request, error))


async def _failed(_: Request, error: Exception) -> Response:
    _logger.error("an admin request failed", exc_info=error)
    return error_response(ApiError(500, "the gateway failed; the log says how"))
