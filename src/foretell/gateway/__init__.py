"""The HTTP server in front of the models: OpenAI-compatible, explained, with books kept."""

from foretell.gateway._app import make_app
from foretell.gateway._gateway import Gateway
from foretell.gateway._logs import configure_logs, secret_values
from foretell.gateway._server import serve

__all__ = ["Gateway", "configure_logs", "make_app", "secret_values", "serve"]
