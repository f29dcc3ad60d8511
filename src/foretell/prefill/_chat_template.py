"""A model's own chat template: messages in, the exact text of its prompt out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate, islice, pairwise
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from foretell.errors import InputError, ModelFileError
from foretell.prefill._control_texts import ControlTexts, Span
from foretell.records import Message, content_text

_ROLES = ("system", "developer", "user", "assistant", "tool")
_MOST_STEPS = 100_000  # items of all ranges, or repeats by one multiplication, in one rendering
_MOST_CHARACTERS = 50_000_000
_PRIVATE_USE = range(0xE000, 0xF900)
_FIXED_NOW = datetime(2024, 7, 26, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """The text of a prompt.

    ``own_start`` is the character where the query's own part begins: the content of the last
    message that is not the assistant's. What lies before it is the same for every query that
    shares the earlier messages. ``answer_start`` is the given beginning of the answer; ``text``
    ends with it. ``literal`` are the ranges of ``text`` where a message or a tool spells a control
    token: there it is text, as everywhere else it is the template's own mark.
    """

    text: str
    own_start: int
    answer_start: str = ""
    literal: tuple[Span, ...] = ()


class ChatTemplate:
    """A Hugging-Face-style Jinja chat template, rendered in a sandbox.

    The template sees what it would see in ``transformers``: ``messages``, ``tools``,
    ``bos_token``, ``eos_token``, ``add_generation_prompt``, ``raise_exception``,
    ``strftime_now``, loop controls, and a ``tojson`` that keeps Unicode. It comes with the
    weights, so it is foreign code: it reaches no attribute that leads out of the sandbox, and
    its ranges, repetitions and output are bounded.

    ``now`` is what ``strftime_now`` says. It is fixed (at the date that Llama's template falls
    back to), because a prompt that changes by the day has other activations than those a probe
    was fitted on.

    ``controls`` are the texts that the model's tokeniser reads as control tokens.

    Raises ``ModelFileError`` when the source does not parse.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str,
        eos_token: str,
        controls: Collection[str] = (),
        now: datetime = _FIXED_NOW,
    ) -> None:
        self._controls = ControlTexts(controls)
        self.sha256 = hashlib.sha256(source.encode()).hexdigest()
        self._variables = {
            "bos_token": bos_token,
            "eos_token": eos_token,
            "raise_exception": _raise_exception,
            "strftime_now": now.strftime,
        }
        try:
            self._template = _sandbox().from_string(source)
        except TemplateSyntaxError as error:
            raise ModelFileError(
                f"the model's chat template does not parse (line {error.lineno}: "
                f"{error.message}); get the weights again, or from another publisher"
            ) from error

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> RenderedPrompt:
        """The prompt that asks the model to answer ``messages``.

        Content given as a list of text parts is joined; ``developer`` is the system role's
        newer name; arguments of tool calls may be JSON text, as OpenAI sends them, or objects,
        as templates expect them. A trailing assistant message is the beginning of the answer.

        Raises ``InputError`` for messages that the template cannot express, with its own words
        where it has any, for tools that it would leave out without a word, and for control tokens
        spelt in a message that come out so changed that they cannot be told from its own.
        """
        if not any(message.get("role") == "user" for message in messages):
            raise InputError(
                f"none of the {len(messages)} messages is the user's; add one with role 'user'"
            )
        asked, answer_start = _split_answer(_checked(messages))
        text = self._text(asked, tools)
        if tools and not self._reads_tools(text, asked):
            raise InputError(
                f"{len(tools)} tools were given, but this model's chat template takes no tools; "
                "leave them out, or pick a model trained to call tools"
            )
        begun = [
            (len(text) + start, len(text) + end)
            for start, end in self._controls.spans(answer_start)
        ]
        return RenderedPrompt(
            text=text + answer_start,
            own_start=self._own_start(text, asked, tools),
            answer_start=answer_start,
            literal=(*self._literal(text, asked, tools), *begun),
        )

    def _literal(
        self, text: str, asked: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> list[Span]:
        """Where in ``text`` messages and tools spell control tokens.

        Found by rendering once more with brackets around each of those, because templates move
        content about. Hardly any query has one; the others cost no more than a look.
        """
        if not any(self._controls.any_in(said) for said in _strings([asked, tools])):
            return []
        opening, closing = _unused_characters(text, 2)

        def bracketed(said: str) -> str:
            return self._controls.bracketed(said, opening=opening, closing=closing)

        try:
            marked_messages, marked_tools = _with_strings([asked, tools], bracketed)
        except RecursionError as error:
            raise InputError(
                "a message or a tool is nested too deep to tell the control tokens spelt in it "
                "from the chat template's own; make it flatter"
            ) from error
        marked = self._text(marked_messages, marked_tools)
        pieces = re.split(f"{opening}([^{opening}{closing}]*){closing}", marked)
        if "".join(pieces) != text:
            raise InputError(
                "a message spells one of this model's control tokens, and its chat template "
                "changes messages in such a way that it cannot be told from the template's own; "
                "take the control token out of the message"
            )
        ends = [0, *accumulate(map(len, pieces))]
        return list(pairwise(ends))[1::2]

    def _own_start(
        self, text: str, asked: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> int:
        """Where ``text`` stops being the same for any content of the last message asked.

        Found by rendering once more with a stand-in, because templates trim content, wrap it,
        and move it about.
        """
        (stand_in,) = _unused_characters(text, 1)
        last = max(i for i, message in enumerate(asked) if message["role"] != "assistant")
        changed = [*asked]
        changed[last] = {**asked[last], "content": stand_in}
        other = self._text(changed, tools)
        if stand_in not in other:
            raise InputError(
                f"this model's chat template leaves out message {last} (role "
                f"{asked[last]['role']!r}), which asks the question; ask with role 'user'"
            )
        ends = min(len(text), len(other))
        return next((i for i in range(ends) if text[i] != other[i]), ends)

    def _reads_tools(self, text: str, asked: Sequence[Message]) -> bool:
        try:
            return text != self._text(asked, ())
        except InputError:
            return True  # it cannot do without them

    def _text(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(
                self._variables,
                messages=messages,
                tools=list(tools) or None,
                add_generation_prompt=True,
                range=_bounded_range(),
            ):
                pieces.append(piece)
                length += len(piece)
                if length > _MOST_CHARACTERS:
                    raise SecurityError(f"it wrote more than {_MOST_CHARACTERS} characters")
        except TemplateError as error:
            raise InputError(
                f"this model's chat template refuses the messages: {error.message}"
            ) from error
        except Exception as error:
            # Templates are foreign code and trip over what they do not expect in any way.
            raise InputError(
                "this model's chat template cannot render the messages "
                f"({type(error).__name__}: {error}); try plain text from system and user only"
            ) from error
        return "".join(pieces)


def _unused_characters(text: str, count: int) -> list[str]:
    """Characters for private use that ``text`` does not use."""
    used = set(text)
    unused = list(islice((c for c in map(chr, _PRIVATE_USE) if c not in used), count))
    if len(unused) < count:
        raise InputError(
            "the messages use all of Unicode's private characters; leave out those in U+E000 to "
            "U+F8FF"
        )
    return unused


def _strings(value: Any) -> Iterator[str]:
    """Every string in a value such as JSON has, keys as well."""
    left = [value]
    while left:
        match left.pop():
            case str() as text:
                yield text
            case Mapping() as items:
                left.extend(items)
                left.extend(items.values())
            case list() | tuple() as elements:
                left.extend(elements)
            case _:
                pass


def _with_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A copy with every string in it changed, keys as well."""
    match value:
        case str() as text:
            return change(text)
        case Mapping() as items:
            return {_with_strings(k, change): _with_strings(v, change) for k, v in items.items()}
        case list() | tuple() as elements:
            return [_with_strings(element, change) for element in elements]
        case _:
            return value


def _checked(messages: Sequence[Message]) -> list[Message]:
    """The messages in the one form that templates know; refuses what has no such form."""
    return [_checked_message(i, message) for i, message in enumerate(messages)]


def _checked_message(index: int, message: Message) -> Message:
    role = message.get("role")
    if role not in _ROLES:
        raise InputError(
            f"message {index} has role {role!r}; wanted one of {', '.join(map(repr, _ROLES))}"
        )
    content = message.get("content")
    calls: Any = message.get("tool_calls")
    if isinstance(content, list):
        for part in content:
            if not (isinstance(part, Mapping) and isinstance(part.get("text"), str)):
                kind: Any = part.get("type") if isinstance(part, Mapping) else part
                raise InputError(
                    f"message {index} has a content part of type {kind!r}; this model reads text "
                    "only, so send text parts, or pick a model for it"
                )
        content = content_text(message)
    elif not isinstance(content, str) and not (content is None and calls):
        raise InputError(
            f"message {index} has content of type {type(content).__name__}; wanted a string or a "
            "list of text parts"
        )
    checked = {
        **message,
        "role": "system" if role == "developer" else role,
        "content": content,
    }
    if calls:
        checked["tool_calls"] = [_with_parsed_arguments(call) for call in calls]
    return checked


def _with_parsed_arguments(call: Any) -> Any:
    try:
        arguments = json.loads(call["function"]["arguments"])
    except (TypeError, KeyError, ValueError, RecursionError):
        return call  # already an object, or text that a model got wrong: shown as it is
    return {**call, "function": {**call["function"], "arguments": arguments}}


def _split_answer(messages: list[Message]) -> tuple[list[Message], str]:
    """The messages to render, and the beginning of the answer that a trailing one gives."""
    last = messages[-1]
    if last["role"] != "assistant":
        return messages, ""
    if last.get("tool_calls"):
        raise InputError(
            "the last message is the assistant's tool call; add the tool's reply (role 'tool')"
        )
    return messages[:-1], last["content"]


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _bounded_range() -> Callable[..., range]:
    left = _MOST_STEPS

    def bounded(*arguments: int) -> range:
        nonlocal left
        steps = range(*arguments)
        left -= len(steps)
        if left < 0:
            raise SecurityError(f"it counts through more than {_MOST_STEPS} numbers")
        return steps

    return bounded


class _Sandbox(ImmutableSandboxedEnvironment):
    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        for size, other in ((left, right), (right, left)):
            if isinstance(size, int) and size > _MOST_STEPS and not isinstance(other, int | float):
                raise SecurityError(f"it repeats something {size} times")
        if operator == "**" and max(abs(left), abs(right)) > _MOST_STEPS:
            raise SecurityError(f"it computes {left} ** {right}")
        return super().call_binop(context, operator, left, right)


class _GenerationBlock(Extension):
    """``{% generation %}``: marks answers for training, and means nothing in a prompt."""

    tags = {"generation"}  # noqa: RUF012 - its type is Jinja's

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _sandbox() -> _Sandbox:
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _GenerationBlock],
    )
    environment.intercepted_binops = frozenset(["*", "**"])
    # Jinja's own tojson escapes for HTML and sorts keys; models were trained on neither.
    environment.filters["tojson"] = _to_json
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
