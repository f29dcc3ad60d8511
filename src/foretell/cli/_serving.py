"""Verbs that serve one query: route and chat."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from foretell.cli._console import err, out, print_json, waiting
from foretell.cli._options import DEFAULT_CONFIG, ConfigPath, JsonFlag, RouteName
from foretell.errors import InputError
from foretell.records import Decision, Message, Sampling

Text = Annotated[str, typer.Argument(help="the query; '-' reads it from standard input")]
MessagesPath = Annotated[
    Path | None,
    typer.Option(
        "--messages", help="JSON list of chat messages that come before the query (examples, turns)"
    ),
]

AnswerStart = Annotated[
    str,
    typer.Option(
        "--answer-start", help="how the weak model's answer must begin, as in the training queries"
    ),
]


def route(
    text: Text,
    config: ConfigPath = DEFAULT_CONFIG,
    name: RouteName = None,
    messages: MessagesPath = None,
    answer_start: AnswerStart = "",
    with_text: Annotated[
        bool, typer.Option("--with-text", help="show how similar training queries begin")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """One decision, explained; nothing is generated.

    Example: foretell route -c foretell.yaml "In which country is Lyon?"
    """
    from foretell.cli._explained import explained_lines
    from foretell.runtime import Foretell, answering_key
    from foretell.runtime._explain import Explainer

    conversation = _conversation(text, messages, answer_start)
    with Foretell.from_config(config) as ft:
        with waiting("opening models") as say:
            opened = ft.open_route(name, progress=say)
        looked = opened.look(conversation)
        decision, prefill, prompt = looked.decision, looked.prefill, looked.prompt
        if prefill is not None:
            prefill.close()
        explainer = Explainer.of_route(
            opened,
            ft.route_config(name),
            ft.open_store,
            strong_model=answering_key(opened.strong[0]),
        )
        explained = explainer.explain(
            decision,
            {} if prefill is None else prefill.activations,
            token_texts=None if prompt is None else opened.engine.token_texts(prompt),
            with_text=with_text,
        )
        if as_json:
            print_json(
                {
                    **asdict(decision),
                    "keep_at_reason": opened.bar.reason,
                    "explanation": explained.as_json(),
                }
            )
            return
        out.print(f"[bold]{decision.action}[/bold]: the {decision.serve} model would answer")
        for line in explanation(decision, opened.bar.reason):
            out.print(f"  {line}", markup=False)
        for line in explained_lines(decision, explained):
            out.print(f"  {line}", markup=False)


def chat(
    text: Text,
    config: ConfigPath = DEFAULT_CONFIG,
    name: RouteName = None,
    messages: MessagesPath = None,
    answer_start: AnswerStart = "",
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.0,
    as_json: JsonFlag = False,
) -> None:
    """One routed answer, streamed, with its decision.

    Example: foretell chat -c foretell.yaml "In which country is Lyon?"
    """
    from foretell.runtime import Foretell

    conversation = _conversation(text, messages, answer_start)
    with Foretell.from_config(config) as ft:
        with waiting("opening models") as say:
            opened = ft.open_route(name, progress=say)
        reply = opened.chat(
            conversation,
            Sampling(max_tokens=max_tokens, temperature=temperature),
            on_text=None if as_json else _write,
        )
        if as_json:
            print_json(asdict(reply))
            return
        print(flush=True)
        err.print(f"{reply.decision.action}: answered by {reply.model}", style="dim", markup=False)
        for line in explanation(reply.decision, opened.bar.reason):
            err.print(f"  {line}", style="dim", markup=False)


def explanation(decision: Decision, bar_reason: str) -> list[str]:
    """What lies behind a decision, a line for each fact."""
    lines = [decision.reason, f"keep at {min(decision.keep_at, 1):.3f}: {bar_reason}"]
    if decision.router is not None:
        lines.append(f"estimated by {decision.router}")
    if decision.stopped_at is not None:
        lines.append(f"the prefill was stopped after layer {decision.stopped_at}")
    if decision.prefill_ms is not None and decision.probe_ms is not None:
        lines.append(f"prefill {decision.prefill_ms:.1f} ms, probe {decision.probe_ms:.3f} ms")
    return lines


def _conversation(text: str, before: Path | None, answer_start: str) -> list[Message]:
    """The query, with what came before it and the beginning of the answer."""
    asked = sys.stdin.read() if text == "-" else text
    if not asked.strip():
        raise InputError("the query is empty; give some text")
    earlier = [] if before is None else _read_messages(before)
    beginning = [{"role": "assistant", "content": answer_start}] if answer_start else []
    return [*earlier, {"role": "user", "content": asked}, *beginning]


def _read_messages(path: Path) -> list[Message]:
    try:
        messages: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read messages from {path}: {error}") from error
    if not isinstance(messages, list) or not all(
        isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages
    ):
        raise InputError(
            f"{path} must hold a JSON list of chat messages, each an object with a 'role'"
        )
    return messages


def _write(piece: str) -> None:
    print(piece, end="", flush=True)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    for verb in (route, chat):
        app.command()(verb)
