"""What a judge behind an API says, for the scripted upstream."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from aiohttp import web
from scripted_server import Script

USAGE = {"prompt_tokens": 100, "completion_tokens": 20}


def said(text: str | None, *, finish: str = "stop", **message: Any) -> Script:
    """One reply, whatever was asked."""

    async def script(_: web.Request) -> web.StreamResponse:
        return web.json_response(completion(text, finish=finish, **message))

    return script


def completion(text: str | None, *, finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "model": "judge-1-2030",
        "choices": [{"message": {"content": text, **message}, "finish_reason": finish}],
        "usage": USAGE,
    }


def verdict(word: str, confidence: float = 0.9, reason: str = "so it is") -> str:
    return json.dumps({"reason": reason, "verdict": word, "confidence": confidence})


def judging(decide: Callable[[dict[str, str]], str]) -> Script:
    """Verdicts by what stands between the marks, by name: ``conversation``, ``answer``, …"""

    async def script(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        return web.json_response(completion(verdict(decide(material(asked)))))

    return script


def material(asked: dict[str, Any]) -> dict[str, str]:
    """The blocks of a judge's prompt, as a judge that keeps to its mark finds them."""
    system, blocks = (message["content"] for message in asked["messages"][:2])
    mark = re.search(r"carry the mark (\w+)\.", system)[1]
    found = re.findall(
        rf"^\[{mark} ([a-z ]+) begins\]\n(.*?)\n\[{mark} \1 ends\]$",
        blocks,
        re.DOTALL | re.MULTILINE,
    )
    return dict(found)
