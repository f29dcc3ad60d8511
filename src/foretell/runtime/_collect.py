"""Running models over queries: answers, activations and costs into the store, with resume."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from time import perf_counter

from foretell.config import ModelConfig, OpenAIModel
from foretell.prefill import PrefillEngine
from foretell.records import ModelIdentity, Observation, Query, ReadPoint, Role, Sampling
from foretell.runtime._models import AnsweringModel, drain
from foretell.store import Store, model_key

_APPEND_EVERY = 64

Observe = Callable[[str, Query, Sampling, int], Observation]
"""(domain, query, sampling, rollout) to what happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """How a collection went: queries answered now, and those that were there already."""

    new: int
    skipped: int


def default_read_points(identity: ModelIdentity) -> tuple[ReadPoint, ...]:
    """Read points worth collecting before anything is known: both poolings, about 12 layers.

    From 30 % of the depth on, evenly, the last layer included. The last layer's mean is left
    out: an engine computes that layer's rows only where it needs logits, so reading them all
    would make every prefill dearer.
    """
    last = identity.n_layers - 1
    first = round(0.3 * last)
    step = max(1, round((last - first) / 11))
    layers = sorted({*range(last, first - 1, -step)})
    return tuple(
        ReadPoint(layer, pooling)
        for layer in layers
        for pooling in ("last", "mean")
        if (layer, pooling) != (last, "mean")
    )


def observer_of_engine(engine: PrefillEngine, read_points: Sequence[ReadPoint]) -> Observe:
    """Observes the weak model: prefill, activations, answer."""

    def observe(domain: str, query: Query, sampling: Sampling, rollout: int) -> Observation:
        prompt = engine.render(query.messages)
        started = perf_counter()
        with engine.prefill(prompt, read_points, answer_tokens=sampling.max_tokens) as prefill:
            first_token = prefill.first_token
            answer = drain(prefill.decode(sampling))
        return Observation(
            domain=domain,
            query=query,
            role="weak",
            answer=answer,
            model=engine.identity,
            rollout=rollout,
            activations=prefill.activations if rollout == 0 else {},
            first_token=first_token,
            own_tokens=prompt.own_tokens,
            seconds=perf_counter() - started,
        )

    return observe


def observer_of_model(model: AnsweringModel, *, role: Role = "strong") -> Observe:
    """Observes a model by its answers alone."""

    def observe(domain: str, query: Query, sampling: Sampling, rollout: int) -> Observation:
        started = perf_counter()
        # An API may say in its answers which version of the model gave them. They are kept under
        # the name that is known beforehand, so that a second run finds them.
        answer = replace(model.answer(query.messages, sampling), model=model.source)
        return Observation(
            domain=domain,
            query=query,
            role=role,
            answer=answer,
            model=model.identity,
            rollout=rollout,
            seconds=perf_counter() - started,
        )

    return observe


def collect(
    store: Store,
    queries: Iterable[Query],
    observe: Observe,
    *,
    domain: str,
    role: Role,
    key: str,
    sampling: Sampling,
    rollouts: int = 1,
    parallel: int = 8,
    on_done: Callable[[Observation | None], None] | None = None,
) -> Collected:
    """Observe every query that is not stored yet, several at once.

    What is done is stored in small batches, so that an interruption (or a kill) loses at most
    the last few; a second run goes on where the first ended. Rollout 0 is decoded as
    ``sampling`` says; the others get seeds of their own, and a temperature of 0.7 where
    ``sampling`` is greedy. ``key`` is the model's in the store. ``on_done`` is told each
    observation, and ``None`` for each that was there already.

    An error of one query stops the collection after storing what was done.
    """
    wanted = list(queries)
    todo: list[tuple[Query, int]] = []
    for rollout in range(rollouts):
        there = store.observed(domain, role, key, rollout)
        todo += [(query, rollout) for query in wanted if query.id not in there]
    skipped = len(wanted) * rollouts - len(todo)
    if on_done is not None:
        for _ in range(skipped):
            on_done(None)
    done: list[Observation] = []
    new = 0
    pool = ThreadPoolExecutor(max_workers=parallel, thread_name_prefix="collect")
    running: set[Future[Observation]] = set()
    try:
        for query, rollout in todo:
            if len(running) >= 2 * parallel:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                _take(finished, done, on_done)
            if len(done) >= _APPEND_EVERY:
                store.append(done)
                new, done = new + len(done), []
            running.add(pool.submit(observe, domain, query, _sampled(sampling, rollout), rollout))
        finished, running = wait(running)
        _take(finished, done, on_done)
    finally:
        # Interrupted or failed: what is running is let finish (a query takes moments), what has
        # not begun is dropped, and everything that was answered is stored.
        pool.shutdown(wait=True, cancel_futures=True)
        done += [f.result() for f in running if not f.cancelled() and f.exception() is None]
        store.append(done)
        new += len(done)
    return Collected(new=new, skipped=skipped)


def engine_key(engine: PrefillEngine) -> str:
    """The name of the engine's model in the store."""
    return model_key(engine.identity)


def answering_key(model: AnsweringModel) -> str:
    """The name in the store of a model that only answers."""
    return model_key(model.identity or model.source)


def key_by_config(model: ModelConfig) -> str | None:
    """The name in the store of a configured model; ``None`` where it takes opening it to know."""
    return model_key(model.model) if isinstance(model, OpenAIModel) else None


def _sampled(sampling: Sampling, rollout: int) -> Sampling:
    if rollout == 0:
        return sampling
    return replace(sampling, temperature=sampling.temperature or 0.7, seed=rollout)


def _take(
    finished: Iterable[Future[Observation]],
    done: list[Observation],
    on_done: Callable[[Observation | None], None] | None,
) -> None:
    """Move results into ``done``; raises the first error only after all that succeeded."""
    failed: BaseException | None = None
    for future in finished:
        if (error := future.exception()) is not None:
            failed = failed or error
            continue
        done.append(future.result())
        if on_done is not None:
            on_done(done[-1])
    if failed is not None:
        raise failed
