from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foretell.errors import EngineUnavailableError, InputError
from foretell.flywheel import Code, Label, SandboxLimits, make_labeller
from foretell.flywheel import _confined as confined
from foretell.flywheel._fences import code_block
from foretell.records import Query

DOUBLE = "def double(n):\n    return 2 * n\n"
TESTS = {"tests": "assert double(2) == 4"}
QUICK = Code(limits=SandboxLimits(seconds=2, memory_mb=512))
IMPATIENT = Code(limits=SandboxLimits(seconds=1, memory_mb=512))


def answered(judge, code, labeller=QUICK):
    return judge(labeller, code, {"tests": "assert False"})


@pytest.mark.parametrize(
    "text",
    [
        DOUBLE,
        f"Sure:\n```python\n{DOUBLE}```\nand to try it\n```python\nraise SystemExit\n```",
        f"```\n{DOUBLE}```",
        f"```py\n{DOUBLE}",
        f"```bash\nls\n```\n```python\n{DOUBLE}```",
        f"{DOUBLE}\nif __name__ == '__main__':\n    print(double(int(input())))",
    ],
)
def test_the_code_of_an_answer_is_run_against_the_tests(judge, text):
    assert judge(QUICK, text, TESTS) == Label(1.0, "")


@pytest.mark.parametrize(
    "reference",
    [
        "assert double(2) == 4",
        {"tests": ["assert double(2) == 4", "assert double(0) == 0"]},
        {"tests": "def check(f):\n    assert f(2) == 4", "entry_point": "double"},
        {"tests": "def test_two():\n    assert double(2) == 4"},
        {"tests": "from answer import double\nassert double(2) == 4"},
        {
            "tests": "import unittest\nclass Double(unittest.TestCase):\n"
            "    def test_two(self):\n        self.assertEqual(double(2), 4)"
        },
    ],
)
def test_tests_come_in_several_forms(judge, reference):
    assert judge(QUICK, DOUBLE, reference) == Label(1.0, "")
    assert judge(QUICK, "def double(n):\n    return n", reference).reason == "tests: AssertionError"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def double(n:", "code: SyntaxError"),
        ("raise ValueError", "code: ValueError"),
        ("class Secret(LookupError): pass\nraise Secret", "code: LookupError"),
        ("def other(n): return n", "tests: NameError"),
        ("def double(n): return n", "tests: AssertionError"),
        ("   ", "no code"),
        ("```python\n```", "no code"),
    ],
)
def test_the_reason_is_where_it_failed_and_how(judge, code, reason):
    assert judge(QUICK, code, TESTS) == Label(0.0, reason)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; sys.exit(0)", "code: SystemExit"),
        ("raise SystemExit(0)", "code: SystemExit"),
        ("import os; os._exit(0)", "ended early"),
        ("import atexit, os; atexit.register(os._exit, 0)", "tests: AssertionError"),
        ("import os\nfor fd in range(3, 64):\n  try: os.close(fd)\n  except OSError: pass", ""),
        ("import os\nfor fd in range(3, 64):\n  try: os.write(fd, b'{\"done\": true}\\n')\n"
         "  except OSError: pass", "tests: AssertionError"),
        ("import os; os.abort()", "killed by"),
        ("import ctypes; ctypes.string_at(0)", "killed by SIGSEGV"),
    ],
)  # fmt: skip
def test_leaving_before_the_tests_have_run_is_no_success(judge, code, reason):
    label = answered(judge, code)
    assert label.value == 0
    assert reason in label.reason


def test_an_infinite_loop_is_ended(judge):
    started = time.monotonic()
    assert answered(judge, "while True: pass", IMPATIENT) == Label(0.0, "code: time limit")
    assert time.monotonic() - started < 10


def test_waiting_without_an_end_is_ended_too(judge):
    assert answered(judge, "import time; time.sleep(1000)", IMPATIENT) == Label(
        0.0, "code: time limit"
    )


def test_the_time_limit_cannot_be_caught(judge):
    code = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert answered(judge, code, IMPATIENT).value == 0


@pytest.mark.parametrize(
    "code",
    ["x = bytearray(1 << 40)", "x = [0]\nwhile True: x += x"],
)
def test_a_memory_hog_is_stopped(judge, code):
    assert answered(judge, code) == Label(0.0, "code: MemoryError")


def test_recursion_without_an_end_is_a_failure(judge):
    assert answered(judge, "def f(): f()\nf()") == Label(0.0, "code: RecursionError")


def every_attempt_is_denied(judge, attempts):
    """One run for all: starting an interpreter is what takes the time."""
    code = f"""
def denied(attempt):
    try:
        exec(attempt, {{}})
    except OSError:
        return True

let_through = [attempt for attempt in {attempts!r} if not denied(attempt)]
"""
    return judge(QUICK, code, "assert let_through == []") == Label(1.0, "")


def test_no_other_process_can_be_started(judge):
    attempts = [
        "import os; os.fork()",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import os; os.execv('/bin/true', ['true'])",
        "import subprocess; subprocess.run(['true'])",
        "import multiprocessing as m; p = m.get_context('fork').Process(); p.start()",
    ]
    assert every_attempt_is_denied(judge, attempts)
    assert not every_attempt_is_denied(judge, [*attempts, "pass"])
    bomb = "import os\nwhile True: os.fork()"
    assert answered(judge, bomb) == Label(0.0, "code: PermissionError")


def test_threads_and_event_loops_are_fine(judge):
    code = """
import asyncio
from concurrent.futures import ThreadPoolExecutor

async def later():
    await asyncio.sleep(0)
    return 1

def double(n):
    with ThreadPoolExecutor(2) as pool:
        return n * sum(pool.map(lambda _: asyncio.run(later()), range(2)))
"""
    assert judge(Code(), code, TESTS) == Label(1.0, "")


@pytest.mark.parametrize(
    "attempts",
    [
        [
            "open('/etc/passwd')",
            f"open({str(Path(__file__))!r})",
            "open('/proc/self/environ')",
            "import os; os.listdir('/')",
            "import os; os.listdir('.')",
        ],
        [
            "open('new', 'w')",
            "open('/tmp/new', 'w')",
            "import os; os.mkdir('new')",
            "import os; os.unlink('/etc/hostname')",
            "import os; os.chmod('/tmp', 0o777)",
            "import os; os.utime('/tmp')",
        ],
        [
            "import os; os.kill(os.getppid(), 9)",
            "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU)",
            "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
            "import os; os.memfd_create('hidden')",
        ],
        [
            "import socket; socket.socket()",
            "import socket; socket.create_connection(('127.0.0.1', 80))",
            "import urllib.request as r; r.urlopen('http://127.0.0.1')",
        ],
    ],
    ids=["read", "change", "disturb", "call"],
)
def test_nothing_outside_can_be(judge, attempts):
    assert every_attempt_is_denied(judge, attempts)


def test_nothing_of_the_environment_is_there(judge, monkeypatch):
    monkeypatch.setenv("LARGE_KEY", "secret")
    code = "import os\ndef double(n): return 4 if 'LARGE_KEY' not in os.environ else 0"
    assert judge(QUICK, code, TESTS).value == 1
    code = "import sys\ndef double(n): return 4 if 'numpy' not in sys.modules else 0\nimport numpy"
    assert judge(QUICK, code, TESTS).reason == "code: ModuleNotFoundError"


@pytest.mark.parametrize(
    "code",
    [
        "while True: print('x' * 1_000_000)",
        "import os\nfor fd in range(3, 64):\n  try:\n    while True: os.write(fd, b'x' * 65536)\n"
        "  except OSError: pass",
    ],
)
def test_a_flood_of_output_goes_nowhere(judge, code):
    assert answered(judge, code, IMPATIENT).value != 1


def test_nothing_is_left_of_a_run(judge, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = len(list(Path("/proc/self/fd").iterdir()))
    judge(QUICK, DOUBLE, TESTS)
    answered(judge, "import os; os._exit(0)")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("tests", ["x = 1", "def check(f):\n    assert f(2) == 4", "pass"])
def test_tests_that_pass_without_any_code_prove_nothing(judge, tests):
    assert judge(QUICK, DOUBLE, tests) == Label(None, "tests pass without code")


def test_the_code_of_a_truncated_answer_is_a_success_or_untold(judge):
    block = f"```python\n{DOUBLE}```\nIt"
    assert judge(QUICK, block, TESTS, cut=True) == Label(1.0, "")
    wrong = "```python\ndef double(n): return n\n```\nNo, wait"
    for text in (DOUBLE, f"```python\n{DOUBLE}", wrong, ""):
        assert judge(QUICK, text, TESTS, cut=True) == Label(None, "truncated")


@pytest.mark.parametrize("reference", [{"tests": "def ("}, {"tests": ""}, {"code": "x"}, 3])
def test_a_reference_without_usable_tests_leaves_the_answer_unlabelled(judge, reference):
    assert judge(QUICK, DOUBLE, reference) == Label(None, "unusable tests")
    query = Query(id="1", messages=({"role": "user", "content": "?"},), reference=reference)
    with pytest.raises(InputError, match="found no tests in any reference"):
        QUICK.check([query])


def test_a_machine_that_cannot_isolate_runs_nothing_unless_that_is_accepted(judge, monkeypatch):
    monkeypatch.setattr("foretell.flywheel._sandbox._LOCKS", ("landlock", "seccomp", "vault"))
    query = Query(id="1", messages=({"role": "user", "content": "?"},), reference=TESTS)
    with pytest.raises(EngineUnavailableError, match=r"lacks vault, .* the option sandbox=process"):
        QUICK.check([query])
    accepted = make_labeller("code", {"sandbox": "process", "seconds": "2", "memory_mb": "256"})
    accepted.check([query])
    assert judge(accepted, DOUBLE, TESTS).value == 1


def test_a_sandbox_in_which_nothing_runs_is_refused_with_the_reason(monkeypatch):
    query = Query(id="1", messages=({"role": "user", "content": "?"},), reference=TESTS)
    monkeypatch.setattr("foretell.flywheel._sandbox.sys.executable", "/bin/false")
    with pytest.raises(EngineUnavailableError, match=r"nothing runs in the sandbox .*ended early"):
        QUICK.check([query])


@pytest.mark.parametrize("lock", ["_filter_calls", "_allow_only_reading"])
def test_without_a_lock_the_other_holds_and_no_process_can_be_started(lock):
    program = f"""
import os, sys
sys.path.insert(0, {str(Path(confined.__file__).parent)!r})
import _confined
_confined.{lock} = lambda library: False
print(_confined.confine({{"cpu_s": 5, "memory_bytes": 1 << 30}}))
try:
    os.fork()
except OSError as error:
    print(type(error).__name__, os.geteuid() != 0)
"""
    done = subprocess.run(
        [sys.executable, "-B", "-c", program], capture_output=True, text=True, check=False
    )
    missing = {"_filter_calls": "seccomp", "_allow_only_reading": "landlock"}[lock]
    left, error = done.stdout.splitlines()
    assert missing not in left
    assert error in ("BlockingIOError True", "PermissionError True"), done.stderr


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"sandbox": "none"}, "option sandbox is 'none'; wanted strict or process"),
        ({"seconds": "0"}, "seconds is 0; wanted at least 1"),
        ({"seconds": "-1"}, "seconds is '-1'; wanted a whole number"),
        ({"memory_mb": "1"}, "memory_mb is 1; wanted at least 64"),
        ({"language": "c"}, "'code' has no option 'language'; it has seconds, memory_mb, sandbox"),
    ],
)
def test_options_that_cannot_be_used_say_why(options, problem):
    with pytest.raises(InputError, match=problem):
        make_labeller("code", options)


@pytest.mark.parametrize(
    ("text", "block", "whole"),
    [
        ("no fence", "no fence", False),
        ("```python\na\n```", "a\n", True),
        ("```python title=x\na\n```", "a\n", True),
        ("  ```\r\na\n  ```\n", "a\n", True),
        ("```python\na", "a", False),
        ("text ``` a ```", "text ``` a ```", False),
        ("```\na\n```\n```PYTHON\nb\n```", "b\n", True),
        ("", "", False),
    ],
)
def test_a_block_is_what_a_fence_encloses(text, block, whole):
    found = code_block(text, "python")
    assert (found.text, found.whole) == (block, whole)
