"""What the gateway adds to a request, and how many a second it can take; LiteLLM beside it.

python -m benchmarks.gateway.overhead [--seconds 5] [--rounds 6] [--litellm …/bin/python] [--json]

The gateway (one process, one thread of Python at a time) has one core; the mock upstream and the
callers share the other. In each round the same load goes to the upstream directly, through the
gateway in its several ways, and through LiteLLM, one after the other, in an order that turns round;
so what else the machine does slows all of them.

- *Overhead* is the quantile of the whole time through the gateway, less the weak model's prefill
  where there is one (request by request), less the same quantile of the direct calls of that round:
  the median over the rounds. It holds everything: sockets, parsing, both hops.
- *Own account* is the header ``x-foretell-overhead-ms``, which the gateway can know before it has
  sent the answer.
- *Throughput* is a closed loop of ``--callers``.

``probe`` reads the prefill of the tiny engine, which is written in Python and takes about 5 ms of
the gateway's core: it is measured at ``--probe-rate``.
"""

from __future__ import annotations

import argparse
import subprocess
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from benchmarks._machine import paired_ratio
from benchmarks.gateway._processes import KEY, Program, gateway, litellm, mock_upstream, run_load
from benchmarks.gateway._project import DIRECTIONS, ENVIRONMENT, TEXT, make_project
from benchmarks.gateway._report import Row, quantile, report
from benchmarks.gateway.load import Load, Loaded

WAYS = {"bypass": "large", "route": "always", "route by chance": "chance"}
"""The gateway's ways that need no prefill, and the model or route each asks for."""
PROBE = "route by probe"
DIRECT, LITELLM = "direct", "LiteLLM"
_LITELLM_PORT = 18_471


class Bench:
    """The programs, and what each way of asking came to, round by round."""

    def __init__(self, programs: dict[str, Program], seconds: float) -> None:
        self._programs = programs
        self._seconds = seconds
        self.runs: dict[tuple[str, str], list[Loaded]] = defaultdict(list)
        self.cpu_us: dict[tuple[str, str], list[float]] = defaultdict(list)

    def round(self, kind: str, ways: dict[str, str], turn: int, **how: Any) -> None:
        """Put the same load on each way, forwards in even turns and backwards in odd ones."""
        for way, model in list(ways.items())[:: -1 if turn % 2 else 1]:
            program = self._programs.get(way, self._programs["gateway"])
            before = program.cpu_s()
            text = TEXT.replace("{}", DIRECTIONS[turn % 3], 1)
            load = Load(
                url=program.url,
                model=model,
                key=KEY,
                seconds=self._seconds,
                seed=turn,
                text=text,
                **how,
            )
            done = run_load(load)
            share = load.seconds / (load.seconds + load.warm_up_s)
            used = (program.cpu_s() - before) * share
            self.runs[kind, way].append(done)
            self.cpu_us[kind, way].append(used * 1e6 / max(1, len(done.total_ms)))

    def overhead_ms(self, kind: str, way: str, q: float, *, direct: str) -> list[float]:
        """Round by round, the quantile less that of the direct calls."""
        return [
            quantile(_without_prefill(run), q) - quantile(straight.total_ms, q)
            for run, straight in zip(self.runs[kind, way], self.runs[direct, DIRECT], strict=True)
        ]

    def failed(self) -> int:
        """Requests that were not answered with 200."""
        return sum(run.failed for runs in self.runs.values() for run in runs)


def _without_prefill(run: Loaded) -> list[float]:
    return [total - prefill for total, prefill in zip(run.total_ms, run.prefill_ms, strict=True)]


def _rows(bench: Bench, options: argparse.Namespace, version: str | None) -> list[Row]:
    rows: list[Row] = []
    rate, probe_rate, shared = f"{options.rate:g}", f"{options.probe_rate:g}", options.shared_rate

    def median(values: list[float]) -> float:
        return float(np.median(values))

    for way in (*WAYS, PROBE):
        kind = "probe" if way == PROBE else "open"
        p50 = median(bench.overhead_ms(kind, way, 0.5, direct=kind))
        p99 = median(bench.overhead_ms(kind, way, 0.99, direct=kind))
        own = [value for run in bench.runs[kind, way] for value in run.overhead_ms]
        cpu = median(bench.cpu_us[kind, way])
        rows.append(
            Row(
                what=f"{way}, overhead at {probe_rate if way == PROBE else rate}/s, p50 / p99",
                measured=f"{p50:.2f} / {p99:.2f} ms (own account {quantile(own, 0.5):.2f} / "
                f"{quantile(own, 0.99):.2f}; {cpu:.0f} µs of processor time)",
                goal="≤ 2 / ≤ 10 ms",
                met=p50 <= 2 and p99 <= 10,
            )
        )
    for way in (*WAYS, PROBE):
        if way == "route by chance":
            continue
        runs = bench.runs["closed", way]
        per_second = median([run.per_second for run in runs])
        errors = sum(run.failed for run in runs)
        rows.append(
            Row(
                what=f"{way}, throughput, {options.callers} callers",
                measured=f"{per_second:,.0f}/s, {errors} errors",
                goal="" if way == PROBE else "≥ 500/s, none",
                met=None if way == PROBE else per_second >= 500 and errors == 0,
            )
        )
    if version is None:
        return rows
    ours = bench.overhead_ms("shared", "bypass", 0.5, direct="shared")
    theirs = bench.overhead_ms("shared", LITELLM, 0.5, direct="shared")
    times = paired_ratio(theirs, ours)
    rows.append(
        Row(
            what=f"LiteLLM {version} ÷ foretell (bypass), overhead p50 at {shared:g}/s",
            measured=f"{times} ({median(theirs):.2f} against {median(ours):.2f} ms)",
            goal="≥ 3",
            met=times.value >= 3,
        )
    )
    fast = [run.per_second for run in bench.runs["closed", "bypass"]]
    slow = [run.per_second for run in bench.runs["closed", LITELLM]]
    times = paired_ratio(fast, slow)
    errors = sum(run.failed for run in bench.runs["closed", LITELLM])
    rates = f"{median(fast):,.0f} against {median(slow):,.0f}/s"
    rows.append(
        Row(
            what="foretell (bypass) ÷ LiteLLM, throughput",
            measured=f"{times} ({rates}, {errors} errors)",
            goal="≥ 3",
            met=times.value >= 3,
        )
    )
    return rows


def _litellm_version(python: Path) -> str:
    code = "from importlib.metadata import version; print(version('litellm'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each block")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--probe-rate", type=float, default=50.0)
    parser.add_argument("--shared-rate", type=float, default=20.0, help="beside LiteLLM")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument(
        "--litellm", type=Path, help="Python of a virtual environment with 'litellm[proxy]'"
    )
    options = parser.parse_args()
    version = None if options.litellm is None else _litellm_version(options.litellm)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        upstream = stack.enter_context(mock_upstream(folder))
        make_project(folder, upstream.url)
        programs = {
            DIRECT: upstream,
            "gateway": stack.enter_context(gateway(folder, environment=ENVIRONMENT)),
        }
        other: dict[str, str] = {}
        if options.litellm is not None:
            programs[LITELLM] = stack.enter_context(
                litellm(options.litellm, folder, upstream.url, _LITELLM_PORT)
            )
            other = {LITELLM: "large"}
        bench = Bench(programs, options.seconds)
        direct, bypass, probe = {DIRECT: "mock-1"}, {"bypass": "large"}, {PROBE: "auto"}
        for turn in range(options.rounds):
            bench.round("open", direct | WAYS, turn, rate=options.rate)
            bench.round("probe", direct | probe, turn, rate=options.probe_rate)
            if other:
                bench.round("shared", direct | bypass | other, turn, rate=options.shared_rate)
            closed = direct | {"bypass": "large", "route": "always"} | probe | other
            bench.round("closed", closed, turn, callers=options.callers)
    details = {
        "options": {name: str(value) for name, value in vars(options).items()},
        "litellm": version,
        "failed": bench.failed(),
        "quantiles_ms": {
            f"{kind}, {way}": {
                f"p{100 * q:g}": round(quantile([v for r in runs for v in r.total_ms], q), 3)
                for q in (0.5, 0.9, 0.99, 0.999)
            }
            for (kind, way), runs in bench.runs.items()
        },
        "cpu_us": {f"{kind}, {way}": values for (kind, way), values in bench.cpu_us.items()},
        "late_ms_p99": quantile(
            [v for runs in bench.runs.values() for run in runs for v in run.late_ms], 0.99
        ),
    }
    report("gateway overhead", _rows(bench, options, version), details, as_json=options.json)


if __name__ == "__main__":
    main()
