"""The ``foretell`` command: thin verbs over the rooms."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer
from rich.markup import escape

from foretell.cli import (
    _data,
    _demo,
    _flywheel,
    _inspect,
    _keys,
    _labelling,
    _learning,
    _probes,
    _serve,
    _serving,
)
from foretell.cli._console import err
from foretell.errors import RoutingError

__all__ = ["app", "main"]

_INTERRUPTED = 130

app = typer.Typer(
    name="foretell",
    help="Read a small model's own activations and foretell whether it will answer well.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verbs in (
    _demo,
    _serve,
    _serving,
    _learning,
    _labelling,
    _flywheel,
    _inspect,
    _probes,
    _data,
    _keys,
):
    verbs.register(app)


def main() -> None:
    """Run the command; what is wrong is said in a sentence, not in a traceback."""
    try:
        app(prog_name="foretell")
    except RoutingError as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"cannot use {error.filename}: {error.strerror}; give another path, or free this one")
    except SystemExit as ending:
        # typer turns Ctrl-C into this code, and says nothing
        if ending.code == _INTERRUPTED:
            err.print("interrupted; what was done is kept, run the same command again to go on")
        raise


def _fail(sentence: str) -> NoReturn:
    err.print(f"[red]error:[/red] {escape(sentence)}", soft_wrap=True)
    sys.exit(1)
