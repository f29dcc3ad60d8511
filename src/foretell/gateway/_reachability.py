"""Whether models behind APIs could be called: asked once at start, so that a log tells early."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from foretell.config import ModelConfig, OpenAIModel

_logger = logging.getLogger(__name__)

_PORTS: Final = {"http": 80, "https": 443}


async def warn_of_unreachable(models: Mapping[str, ModelConfig]) -> None:
    """Log which models could not be called now. That is no error: they may come yet."""
    remote = {name: model for name, model in models.items() if isinstance(model, OpenAIModel)}
    problems = await asyncio.gather(*map(_problem, remote.values()))
    for name, problem in zip(remote, problems, strict=True):
        if problem is not None:
            _logger.warning("model %r cannot be called at the moment: %s", name, problem)


async def _problem(model: OpenAIModel) -> str | None:
    """What would keep a call from being made. A connection is opened, and nothing sent."""
    variable = model.api_key_env
    if variable is not None and not os.environ.get(variable, "").strip():
        return f"the environment variable {variable}, which is to hold its key, is not set"
    parts = urlsplit(model.base_url)
    port = parts.port or _PORTS[parts.scheme]
    try:
        async with asyncio.timeout(model.deadlines.connect_s):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, UnicodeError, TimeoutError):
        return f"nothing at its base_url accepts connections on port {port}"
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return None
