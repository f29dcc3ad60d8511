"""The real gateway on a real socket: uvicorn on a thread, a scripted upstream behind it.

The weak model is the tiny engine with a probe that was trained on ``toy_project``: it keeps what
asks about the north (``KEPT``) and escalates what asks about the south (``ESCALATED``).
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anthropic
import httpx2
import openai
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from foretell.config import Config, parse_config
from foretell.gateway._app import make_app
from foretell.gateway._gateway import Gateway
from foretell.gateway._server import _listen, _server
from foretell.prefill import PrefillEngine
from foretell.records import ReadPoint, RequestRecord
from upstreams.scripted_server import ScriptedServer, answers

_Result = TypeVar("_Result")

_PATIENCE_S = 20.0

KEPT = [{"role": "user", "content": "Which town in the north is nr 4?"}]
ESCALATED = [{"role": "user", "content": "Which town in the south is nr 4?"}]


def remote(url: str, model: str = "big-1", **settings: Any) -> dict[str, Any]:
    """A model behind an API that is given up soon; other settings by name."""
    return {
        "engine": "openai",
        "base_url": url,
        "model": model,
        "price": {"input": 2.5, "output": 10, "cached_input": 1.25},
        "deadlines": {"connect_s": 2, "first_byte_s": 2, "idle_s": 2, "total_s": 20},
        "retries": {"attempts": 2, "first_wait_s": 0.01, "longest_wait_s": 0.05, "budget": 1},
        **settings,
    }


def gateway_config(
    project: Path,
    upstream: str | Mapping[str, Mapping[str, Any]],
    *,
    server: Mapping[str, Any] | None = None,
    models: Mapping[str, Mapping[str, Any]] | None = None,
    probes: Mapping[str, Any] | None = None,
    **route: Any,
) -> Config:
    """A route ``auto`` of the tiny model and strong ones behind it.

    ``upstream`` is the URL of the only strong model (``large``), or all of them by name, in order;
    ``models`` are further ones. What is given by other names goes into the route.
    """
    strong = {"large": remote(upstream)} if isinstance(upstream, str) else dict(upstream)
    small = {"engine": "tiny", "price": {"input": 0.02, "output": 0.08}}
    return parse_config(
        {
            "schema_version": 1,
            "models": {"small": small, **strong, **(models or {})},
            "routes": {
                "auto": {
                    "weak": "small",
                    "strong": list(strong),
                    "domain": "toy",
                    "goal": {"threshold": 0.5},
                    # Many tests share two cores: only what is meant to be slow shall be too slow.
                    "deadline": {"floor_ms": 10_000},
                    **route,
                }
            },
            "store": {
                "url": f"sqlite:///{project}/foretell.db",
                "vectors": str(project / "vectors"),
            },
            "probes": {"dir": str(project / "probes"), **(probes or {})},
            "server": {"port": 0, "drain_s": 5, **(server or {})},
        },
        where="the test's configuration",
    )


@dataclass(eq=False)
class Served:
    """A gateway that runs in an event loop of another thread."""

    url: str
    gateway: Gateway
    loop: asyncio.AbstractEventLoop
    tasks_at_rest: int = 0
    _open: list[Any] = field(default_factory=list)

    # Clients

    def openai(self, **settings: Any) -> openai.OpenAI:
        """The official client; it tries nothing again."""
        client = openai.OpenAI(
            base_url=f"{self.url}/v1", **{"api_key": "any", "max_retries": 0, **settings}
        )
        self._open.append(client)
        return client

    def anthropic(self, **settings: Any) -> anthropic.Anthropic:
        """The official client; it tries nothing again."""
        client = anthropic.Anthropic(
            base_url=self.url, **{"api_key": "any", "max_retries": 0, **settings}
        )
        self._open.append(client)
        return client

    def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        """The JSON ``body``; ``x_foretell_route="off"`` is the header ``x-foretell-route``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx2.post(f"{self.url}{path}", json=body, headers=named, timeout=_PATIENCE_S)

    def chat(self, messages: list[Any] | None = None, /, **body: Any) -> httpx2.Response:
        """One chat completion of route ``auto``; ``headers`` are sent along."""
        headers = body.pop("headers", {})
        whole = {"model": "auto", "messages": messages or KEPT, **body}
        return self.post("/v1/chat/completions", whole, **headers)

    @contextmanager
    def streaming(
        self, messages: list[Any] | None = None, /, **body: Any
    ) -> Generator[tuple[httpx2.Response, Iterator[str]]]:
        """A streamed chat completion under way: the response, and the data of its events."""
        headers = body.pop("headers", {})
        whole = {"model": "auto", "messages": messages or KEPT, "stream": True, **body}
        url = f"{self.url}/v1/chat/completions"
        with httpx2.stream("POST", url, json=whole, headers=headers, timeout=_PATIENCE_S) as reply:
            lines = reply.iter_lines()
            yield reply, (x.removeprefix("data: ") for x in lines if x.startswith("data: "))

    def events(self, messages: list[Any] | None = None, /, **body: Any) -> list[str]:
        """The data of each event of one streamed chat completion."""
        return sse_data(self.chat(messages, stream=True, **body).text)

    def hanging(
        self,
        messages: list[Any] | None = None,
        /,
        path: str = "/v1/chat/completions",
        **body: Any,
    ) -> socket.socket:
        """The connection of a chat completion that was asked for and not read."""
        whole = json.dumps({"model": "auto", "messages": messages or KEPT, **body}).encode()
        connection = socket.create_connection(("127.0.0.1", port_of(self.url)))
        connection.sendall(
            b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (path.encode(), len(whole), whole)
        )
        return connection

    # What goes on inside

    def call(self, function: Callable[[], _Result]) -> _Result:
        """Call it in the gateway's event loop."""

        async def run() -> _Result:
            return function()

        return self.run(run())

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Await it in the gateway's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(_PATIENCE_S)

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of that name with these labels."""
        text = httpx2.get(f"{self.url}/metrics").text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def records(self) -> list[RequestRecord]:
        """The ledger, oldest first."""
        self.at_rest()
        self.run(self.gateway.flushed())
        assert self.gateway.store is not None
        return sorted(
            self.gateway.store.requests(since=None, limit=10_000), key=lambda record: record.at
        )

    def last(self) -> RequestRecord:
        """The newest record of the ledger."""
        return self.records()[-1]

    def engine(self, route: str = "auto") -> PrefillEngine:
        """The weak model's engine."""
        side = self.gateway.snapshot.routes[route].sides
        return next(iter(side.values())).route.engine

    def at_rest(self) -> None:
        """Wait until no request is under way and nothing is left of those before."""
        until(lambda: self.gateway.admission.in_flight == 0)
        until(lambda: self.call(lambda: len(asyncio.all_tasks())) <= self.tasks_at_rest)
        until(self.threads_are_idle)

    def threads_are_idle(self) -> bool:
        """Whether no worker has anything to do."""
        executor = self.gateway.executor
        return executor._work_queue.empty() and executor._idle_semaphore._value == len(
            executor._threads
        )

    def close(self) -> None:
        for client in self._open:
            client.close()


@contextmanager
def serving(config: Config, *, wait: bool = True) -> Generator[Served]:
    """Serve until the block ends, then stop as a signal would; waits for the models to load."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    served: list[Served] = []
    failure: list[BaseException] = []
    stop = asyncio.Event()

    async def run() -> None:
        gateway = Gateway(config)
        listener = _listen("127.0.0.1", 0)
        try:
            server = _server(make_app(gateway), config)
            running = asyncio.create_task(server.serve(sockets=[listener]))
            loading = asyncio.create_task(gateway.load())
            if wait:
                await loading
            served.append(Served(f"http://127.0.0.1:{listener.getsockname()[1]}", gateway, loop))
            started.set()
            await stop.wait()
            gateway.draining = True
            server.should_exit = True
            await running
            await loading
        finally:
            await gateway.close()
            listener.close()

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(run())
        except BaseException as error:  # noqa: BLE001 - raised again in the test's own thread
            failure.append(error)
            started.set()

    thread = threading.Thread(target=work, name="gateway")
    thread.start()
    try:
        assert started.wait(_PATIENCE_S)
        if served:
            # Its own tasks: serving, running the test's question, and loading where not awaited.
            served[0].tasks_at_rest = 3 if wait else 4
            yield served[0]
            served[0].close()
    finally:
        if served:
            loop.call_soon_threadsafe(stop.set)
        thread.join(_PATIENCE_S)
        assert not thread.is_alive()
    if failure:
        raise failure[0]


@contextmanager
def upstream(*scripts: Any, otherwise: Any = answers) -> Generator[ScriptedServer]:
    """A scripted upstream on a thread of its own, which answers ``Hello`` when nothing is left."""
    with ScriptedServer(list(scripts), otherwise) as server:
        yield server


class Paced:
    """A stream that goes on when it is told to, so that no test depends on who is quicker.

    Its first event is sent at once, the rest, numbers being pauses in seconds, after ``go_on``.
    """

    def __init__(self, first: bytes, *rest: bytes | float, then_cut: bool = False) -> None:
        self._first = first
        self._rest = rest
        self._then_cut = then_cut
        self._told = threading.Event()

    def go_on(self) -> None:
        """Send the rest."""
        self._told.set()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(self._first)
        while not self._told.is_set():
            await asyncio.sleep(0.002)
        for piece in self._rest:
            if isinstance(piece, bytes):
                await response.write(piece)
            else:
                await asyncio.sleep(piece)
        if self._then_cut:
            assert request.transport is not None
            request.transport.abort()
        return response


@contextmanager
def busy(engine: PrefillEngine) -> Iterator[None]:
    """The tiny engine, which computes for one request at a time, taken up by another one."""
    taken, release = threading.Event(), threading.Event()

    class Slow:
        def __call__(self, *_: Any) -> bool:
            taken.set()
            release.wait(_PATIENCE_S)
            return False

    def hold() -> None:
        prompt = engine.render([{"role": "user", "content": "Take your time."}])
        engine.prefill(prompt, [ReadPoint(0, "last")], Slow(), answer_tokens=1).close()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert taken.wait(_PATIENCE_S)
        yield
    finally:
        release.set()
        thread.join()


def until(condition: Callable[[], object], timeout_s: float = _PATIENCE_S) -> None:
    """Wait for it."""
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.005)


def sse_data(text: str) -> list[str]:
    """What follows ``data:`` in each event."""
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


def foretell_block(events: list[str]) -> dict[str, Any]:
    """The decision that a stream tells of."""
    for event in events:
        if event != "[DONE]" and (block := json.loads(event).get("foretell")):
            return block
    raise AssertionError("no event tells of the decision")


def port_of(url: str) -> int:
    """Where a server listens."""
    port = urlsplit(url).port
    assert port is not None
    return port
