"""``foretell serve`` in a process of its own, as people run it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx2
import yaml
from serving import KEPT, remote, until

_PROGRAM = """
from foretell.cli import main
main()
"""
_SLOW_TO_LOAD = """
import time
from pathlib import Path
from foretell.prefill.engines import tiny

class Slow(tiny.TinyEngine):
    def __init__(self):
        while not Path("load-now").exists():
            time.sleep(0.01)
        super().__init__()

tiny.TinyEngine = Slow
"""
ADMIN = {"authorization": "Bearer admin-token"}


def settings(upstream: str, *, server: Mapping[str, Any] | None = None, **route: Any) -> Any:
    """What ``foretell.yaml`` holds: paths are those of the folder it stands in."""
    return {
        "schema_version": 1,
        "models": {
            "small": {"engine": "tiny", "price": {"input": 0.02, "output": 0.08}},
            "large": remote(upstream),
        },
        "routes": {
            "auto": {
                "weak": "small",
                "strong": ["large"],
                "domain": "toy",
                "goal": {"threshold": 0.5},
                "deadline": {"floor_ms": 10_000},
                **route,
            }
        },
        "server": {
            "port": 8400,
            "admin": {"port": 0, "token_env": "T_ADMIN_TOKENS"},
            **(server or {}),
        },
    }


class GatewayProcess:
    """The process, and what it says on stderr."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []
        assert process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(process.stderr,))
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self.said.append(line)

    @property
    def stderr(self) -> str:
        return "".join(self.said)

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.said if line.startswith("{")]

    @property
    def url(self) -> str:
        return self._address(r"foretell serves on (http://\S+)")

    @property
    def admin_url(self) -> str:
        return self._address(r"admin listens on (http://[^\"\s]+)")

    def _address(self, pattern: str) -> str:
        until(lambda: re.search(pattern, self.stderr) or self.process.poll() is not None)
        found = re.search(pattern, self.stderr)
        assert found, self.stderr
        return found[1]

    def says(self, text: str) -> None:
        """Wait until it does."""
        until(lambda: text in self.stderr or self.process.poll() is not None)
        assert text in self.stderr, self.stderr

    def is_ready(self) -> None:
        """Wait until it is."""
        until(lambda: self.get("/readyz").status_code == 200)

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return httpx2.get(f"{self.url}{path}", headers=headers, timeout=20)

    def chat(self, messages: Any = None, headers: Any = None, **body: Any) -> httpx2.Response:
        whole = {"model": "auto", "messages": messages or KEPT, "max_tokens": 2, **body}
        return httpx2.post(
            f"{self.url}/v1/chat/completions", json=whole, headers=headers, timeout=20
        )

    def admin(self, method: str, path: str, **request: Any) -> httpx2.Response:
        headers = {**ADMIN, **request.pop("headers", {})}
        url = f"{self.admin_url}/admin/{path}"
        return httpx2.request(method, url, headers=headers, timeout=30, **request)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self, timeout_s: float = 20) -> int:
        """Wait for the end; the exit status."""
        code = self.process.wait(timeout_s)
        self._reader.join()
        return code


@contextmanager
def running(
    folder: Path,
    config: Any,
    *arguments: str,
    slow_to_load: bool = False,
    **environment: str,
) -> Generator[GatewayProcess]:
    """Serve ``config`` from ``folder`` until the block ends; killed if nothing else ended it.

    With ``slow_to_load`` the weak model is loaded only once there is a file ``load-now``.
    """
    program = _SLOW_TO_LOAD + _PROGRAM if slow_to_load else _PROGRAM
    (folder / "gateway.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    ours = {"T_ADMIN_TOKENS": "admin:admin-token,viewer:viewer-token", **environment}
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve", "-c", "gateway.yaml", "--port", "0", *arguments],
        cwd=folder,
        env={**os.environ, **ours},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    served = GatewayProcess(process)
    try:
        yield served
    finally:
        process.kill()
        served.ends()
