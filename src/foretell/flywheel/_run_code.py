"""Run inside the sandbox, without foretell: an answer's code, then the query's tests."""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any


def prepare(task: Mapping[str, Any]) -> Callable[..., bool]:
    """What runs the task once the process is locked in; it returns whether all went well."""
    # Loaded before, since an answer may change how modules are found.
    import unittest

    def run(report: Callable[..., None]) -> bool:
        # By a name that is not __main__, so that a demonstration at the end does not run.
        module = types.ModuleType("answer")
        sys.modules["answer"] = module
        for part in ("code", "tests"):
            report(part=part)
            try:
                _execute(task[part], part, module.__dict__)
                if part == "tests":
                    _call_tests(module.__dict__, task["entry_point"], unittest)
            except BaseException as error:  # noqa: BLE001 (SystemExit is how answers cheat)
                report(failed=_kind(error))
                return False
        return True

    return run


def _execute(source: str, name: str, names: dict[str, Any]) -> None:
    exec(compile(source, f"<{name}>", "exec", dont_inherit=True), names)  # noqa: S102


def _call_tests(names: dict[str, Any], entry_point: str | None, unittest: Any) -> None:
    """What tests define but do not call: ``check(candidate)``, ``test_*`` and test cases."""
    if entry_point is not None:
        names["check"](names[entry_point])
    for name, value in list(names.items()):
        if name.startswith("test_") and isinstance(value, types.FunctionType):
            value()
        if isinstance(value, type) and issubclass(value, unittest.TestCase):
            result = unittest.TestResult()
            unittest.defaultTestLoader.loadTestsFromTestCase(value).run(result)
            if not result.wasSuccessful():
                raise AssertionError


def _kind(error: BaseException) -> str:
    """Name of the built-in exception that it is: no text of an answer gets out as a reason."""
    return next(
        kind.__name__
        for kind in type(error).__mro__
        if getattr(builtins, kind.__name__, None) is kind
    )
