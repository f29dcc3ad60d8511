"""Where a model is called, and with which key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import urlsplit

from foretell.errors import ConfigError
from foretell.upstreams._addresses import is_forbidden_address


def checked_base_url(name: str, base_url: str) -> str:
    """``base_url`` without a slash at its end.

    Raises ``ConfigError`` for one that cannot be called safely.
    """
    wanted = "wanted something like 'https://host/v1', without a user, query or fragment"
    try:
        parts = urlsplit(base_url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise ConfigError(f"base_url of model {name!r} is no URL; {wanted}") from None
    if not whole or "@" in parts.netloc or parts.query or parts.fragment:
        # The URL is not quoted: it may hold a password.
        raise ConfigError(f"base_url of model {name!r} cannot be used; {wanted}")
    if is_forbidden_address(parts.hostname or ""):
        raise ConfigError(
            f"base_url of model {name!r} is a link-local address, where no model is but a cloud's "
            "metadata may be; set it to the model's own host"
        )
    return base_url.rstrip("/")


def api_key(name: str, variable: str | None, environment: Mapping[str, str]) -> str | None:
    """The key that ``variable`` holds right now; ``None`` when the model needs none.

    Raises ``ConfigError`` when it is not set, or is nothing that a header can carry.
    """
    if variable is None:
        return None
    key = environment.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"model {name!r} needs an API key in the environment variable {variable}, which is "
            "not set"
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"the API key in {variable} has characters that no key has, such as a line break; "
            "set it again"
        )
    return key


def without_key(text: str, key: str | None) -> str:
    """``text`` with each mention of the key, as it is or within JSON, struck out."""
    if not key:
        return text
    return text.replace(key, "***").replace(json.dumps(key)[1:-1], "***")
