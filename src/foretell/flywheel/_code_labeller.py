"""Whether the code in an answer passes its query's tests."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from foretell.errors import InputError
from foretell.flywheel._fences import code_block
from foretell.flywheel._labeller import (
    NO_REFERENCE,
    SUCCESS,
    TRUNCATED,
    Label,
    check_references,
)
from foretell.flywheel._options import check_names, sandbox_options
from foretell.flywheel._sandbox import (
    Finished,
    Isolation,
    SandboxLimits,
    check_sandbox,
    run_sandboxed,
)
from foretell.records import Answer, Query


class Code:
    """Whether the answer's Python code passes the tests in the query's reference.

    The code is the first fenced block in Python, else the first block, else the whole answer. The
    reference is ``{"tests": "...", "entry_point": "..."}``, the tests being a text or a list of
    them and the entry point optional, or the tests alone. Tests run after the code and in its
    names: statements such as ``assert f(2) == 4``, functions ``test_...``, ``unittest`` cases, and
    a function ``check`` that takes the entry point. Tests that pass without any code prove nothing,
    so the answer is not labelled.

    Both run in a sandbox with Python's own library alone: no files, network, environment or other
    processes, and time and memory as ``limits`` say. A pass is proven by what only a run that got
    to its end can know, but code that is written to cheat this very labeller shares a process with
    its tests and may. A truncated answer is run only when its block is closed, and is a success
    when it passes, never a failure.

    Args:
        limits: What one run may use.
        isolation: How much the sandbox must promise; see ``Isolation``.
    """

    metric = "code"

    def __init__(
        self, *, limits: SandboxLimits | None = None, isolation: Isolation = "strict"
    ) -> None:
        self._limits = limits or SandboxLimits()
        self._isolation: Isolation = isolation

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """Make one from options: ``seconds``, ``memory_mb``, ``sandbox`` (strict or process)."""
        check_names(cls.metric, options, "seconds", "memory_mb", "sandbox")
        limits, isolation = sandbox_options(options)
        return cls(limits=limits, isolation=isolation)

    def check(self, queries: Sequence[Query]) -> None:
        """Refuse queries of which none has tests, and a machine without a sandbox."""
        check_references(self.metric, queries)
        if all(_tests(query.reference) is None for query in queries):
            raise InputError(
                "the labeller 'code' found no tests in any reference; wanted Python such as "
                '{"tests": "assert f(2) == 4"}'
            )
        check_sandbox(self._limits, self._isolation)

    def label(self, query: Query, answer: Answer) -> Label:
        """Judge an answer."""
        if query.reference is None:
            return NO_REFERENCE
        tests = _tests(query.reference)
        if tests is None:
            return Label(None, "unusable tests")
        truncated = answer.finish_reason == "length"
        block = code_block(answer.text, "python", "py", "python3")
        if truncated and not block.whole:
            return TRUNCATED
        if not block.text.strip():
            return TRUNCATED if truncated else Label(0.0, "no code")
        label = self._judge(self._run(block.text, tests))
        if label.value == 1 and self._run("", tests).proven:
            return Label(None, "tests pass without code")
        return TRUNCATED if truncated and label.value == 0 else label

    def _run(self, code: str, tests: _Tests) -> Finished:
        task = {"code": code, "tests": tests.source, "entry_point": tests.entry_point}
        return run_sandboxed("_run_code.py", task, self._limits, self._isolation)

    def _judge(self, finished: Finished) -> Label:
        if finished.proven:
            return SUCCESS
        part = finished.said.get("part")
        if part not in ("code", "tests"):
            return Label(None, f"sandbox failed: {finished.problem}")
        failed = finished.said.get("failed")
        how = failed if isinstance(failed, str) and failed.isidentifier() else finished.problem
        return Label(0.0, f"{part}: {how}")


@dataclass(frozen=True, slots=True)
class _Tests:
    source: str
    entry_point: str | None


def _tests(reference: Any) -> _Tests | None:
    """The tests of a reference; ``None`` when it has none that are Python."""
    entry_point: Any = None
    if isinstance(reference, dict):
        fields = cast("dict[str, Any]", reference)
        reference, entry_point = fields.get("tests"), fields.get("entry_point")
    if isinstance(reference, list):
        reference = "\n".join(map(str, cast("list[Any]", reference)))
    if not isinstance(reference, str) or not reference.strip():
        return None
    if not isinstance(entry_point, str | None):
        return None
    try:
        ast.parse(reference)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return _Tests(reference, entry_point)
