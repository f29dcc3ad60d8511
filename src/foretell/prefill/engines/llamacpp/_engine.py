"""The engine: one thread owns the context; everybody else leaves requests in its inbox."""

from __future__ import annotations

import contextlib
import ctypes as c
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from foretell.errors import (
    ContextOverflowError,
    EngineBusyError,
    EngineClosedError,
    EngineUnavailableError,
    InputError,
    ModelFileError,
    RoutingError,
    UnknownReadPointError,
)
from foretell.prefill._chat_template import ChatTemplate
from foretell.prefill._giving_up import (
    ASK_EVERY_S,
    answer_given_up,
    prefill_given_up,
    refuse_when_given_up,
)
from foretell.prefill._logits import log_normaliser
from foretell.prefill._protocol import Gate, GivenUp, Prompt
from foretell.prefill._stopping_text import StoppingText
from foretell.prefill.engines.llamacpp._batch import BatchRows
from foretell.prefill.engines.llamacpp._capi import LlamaLibrary, load_library
from foretell.prefill.engines.llamacpp._cells import SHORTEST_KEPT, CellPool, Tokens, common_prefix
from foretell.prefill.engines.llamacpp._requests import LlamaCppPrefill, Request, Stage
from foretell.prefill.engines.llamacpp._sampler import Sampler
from foretell.prefill.engines.llamacpp._schedule import Call, Waiting, next_call
from foretell.prefill.engines.llamacpp._tap import LayerRows, Tap
from foretell.prefill.engines.llamacpp._vocabulary import Vocabulary
from foretell.records import Answer, FinishReason, Message, ModelIdentity, ReadPoint, Usage
from foretell.threads import default_threads

_BATCH_TOKENS: Final = 512
_KEPT_SEQUENCES: Final = 16
# Rows of one call whose logits are computed. The last layer shows only those rows, so its mean
# is read in stretches of this many tokens; more would cost memory for every model.
_OUTPUT_ROWS: Final = 64
_DECLINE_MEMORY: Final = 0.05  # weight of the newest query in the recent decline rate


class LlamaCppEngine:
    """llama.cpp in this process, read through its C API.

    Args:
        path: A GGUF file, already checked (see ``resolve_weights``).
        weights_sha256: SHA-256 of that file.
        source: Where it came from, as the user wrote it.
        revision: Version of the source, when it has one.
        threads: Threads of the evaluation; default cores - 1 (spinning on every core is several
            times slower as soon as anything else runs).
        context_tokens: Most tokens of one prompt with its answer; default 2,048 or what the model
            was trained for, if less.
        parallel: Requests in the cache at once.
        pool_tokens: Tokens in the cache over all requests and kept prefixes; default twice
            ``context_tokens``. A quarter of it may hold kept prefixes.
        queue_limit: Requests waiting for a place before ``EngineBusyError``.

    """

    def __init__(
        self,
        path: Path,
        *,
        weights_sha256: str,
        source: str,
        revision: str | None = None,
        threads: int | None = None,
        context_tokens: int | None = None,
        parallel: int = 8,
        pool_tokens: int | None = None,
        queue_limit: int = 256,
    ) -> None:
        self._library = library = load_library()
        with contextlib.ExitStack() as stack:
            model = library.load_model(path)
            if model is None:
                raise ModelFileError(
                    f"llama.cpp cannot load {path.name}: {_last(library.recent_log)}; "
                    "wanted a GGUF file of a model that it supports"
                )
            stack.callback(library.llama_model_free, model)
            _check_readable(library, model, path)
            self._vocabulary = Vocabulary(library, model)
            self._template = _chat_template(library, model, self._vocabulary, path)
            self._identity = ModelIdentity(
                source=source,
                revision=revision,
                weights_sha256=weights_sha256,
                chat_template_sha256=self._template.sha256,
                engine="llamacpp",
                n_layers=library.llama_model_n_layer(model),
                width=library.llama_model_n_embd(model),
                quantisation=library.llama_ftype_name(library.llama_model_ftype(model)).decode(),
            )
            trained_for: int = library.llama_model_n_ctx_train(model)
            self._context_tokens = context_tokens or min(2048, trained_for)
            pool = max(pool_tokens or 2 * self._context_tokens, self._context_tokens)
            threads = threads or default_threads()
            self._tap = Tap(library, self._identity.width)
            self._output_rows = max(_OUTPUT_ROWS, parallel)
            context = library.new_context(
                model,
                n_ctx=pool,
                n_batch=_BATCH_TOKENS,
                n_ubatch=_BATCH_TOKENS,
                n_seq_max=parallel + _KEPT_SEQUENCES,
                n_outputs_max=self._output_rows,
                n_outputs_max_per_seq=0,
                n_threads=threads,
                n_threads_batch=threads,
                kv_unified=True,
                no_perf=True,
                cb_eval=self._tap.filter.address,
                cb_eval_user_data=self._tap.filter.user_data,
            )
            if context is None:
                raise EngineUnavailableError(
                    f"llama.cpp cannot make a context of {pool} tokens for {path.name}: "
                    f"{_last(library.recent_log)}; try fewer pool_tokens"
                )
            stack.callback(library.llama_free, context)
            self._context = context
            self._memory = library.llama_get_memory(context)
            self._release_native = stack.pop_all()
        self._parallel = parallel
        self._cells = CellPool(
            cells=pool,
            sequences=parallel + _KEPT_SEQUENCES,
            kept_cells=pool // 4,
            clear=self._clear_sequence,
        )
        self._rows = BatchRows(_BATCH_TOKENS)
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._submitting = threading.Lock()
        self._queue_limit = queue_limit
        self._queue_length = 0
        self._closed = False
        self._running = True
        self._freeing = threading.Lock()
        self._queue: deque[Request] = deque()
        self._prefilling: list[Request] = []
        self._held: set[Request] = set()
        self._decoding: list[Request] = []
        self._after_gated_prefill = False
        self._decline_rate = 0.3
        self.evaluated_tokens = 0
        self._thread = threading.Thread(target=self._run, name="foretell-llamacpp", daemon=True)
        self._thread.start()

    # What callers use, from any thread.

    @property
    def identity(self) -> ModelIdentity:
        """Weights, template and shape of the model that is served."""
        return self._identity

    @property
    def context_tokens(self) -> int:
        """Most tokens that one prompt with its answer may take."""
        return self._context_tokens

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Prompt:
        """The model's own chat template over the messages, tokenised."""
        rendered = self._template.render(messages, tools)
        text, literal = rendered.text, rendered.literal
        tokens = self._vocabulary.tokenise(text, literal=literal)
        shared = self._vocabulary.tokenise(text[: rendered.own_start], literal=literal)
        # Tokens may join across the boundary; what differs belongs to the query.
        own_start = min(common_prefix(shared, tokens), len(tokens) - 1)
        return Prompt(tokens=tokens, own_start=own_start, answer_start=rendered.answer_start)

    def token_texts(self, prompt: Prompt) -> tuple[str, ...]:
        """Each token's text, control tokens as they are written; U+FFFD for parts of characters."""
        self._check_tokens(prompt)
        return self._vocabulary.texts(prompt.tokens)

    def prefill(
        self,
        prompt: Prompt,
        read_points: Sequence[ReadPoint] = (),
        gate: Gate | None = None,
        *,
        answer_tokens: int = 256,
        given_up: GivenUp | None = None,
    ) -> LlamaCppPrefill:
        """Evaluate the prompt once; read activations; stop early when the gate says so."""
        self._check(prompt, read_points, answer_tokens)
        refuse_when_given_up(given_up)
        request = Request(prompt, read_points, gate, answer_tokens)
        future = self._enqueue(request)
        try:
            return _result(future, given_up)
        except BaseException:
            request.given_up = True
            if not future.cancel():
                self._inbox.put(lambda: self._cancel(request))
            raise

    def submit(
        self,
        prompt: Prompt,
        read_points: Sequence[ReadPoint] = (),
        gate: Gate | None = None,
        *,
        answer_tokens: int = 256,
    ) -> Future[LlamaCppPrefill]:
        """``prefill`` without waiting. Cancelling the future takes a waiting request out."""
        self._check(prompt, read_points, answer_tokens)
        return self._enqueue(Request(prompt, read_points, gate, answer_tokens))

    def _enqueue(self, request: Request) -> Future[LlamaCppPrefill]:
        future = request.prefilled
        assert future is not None  # noqa: S101 - given up only by the engine's thread
        with self._submitting:
            if self._closed:
                raise EngineClosedError("the engine is closed; open another one")
            if self._queue_length >= self._queue_limit:
                raise EngineBusyError(
                    f"{self._queue_length} requests are waiting, the limit is {self._queue_limit}; "
                    "try again later, or raise queue_limit"
                )
            self._queue_length += 1
            self._inbox.put(lambda: self._queue.append(request))
        future.add_done_callback(self._leave_queue_when_cancelled)
        return future

    def _leave_queue_when_cancelled(self, future: Future[LlamaCppPrefill]) -> None:
        """Its place in the queue is free at once, though the engine may be busy for long."""
        if future.cancelled():
            with self._submitting:
                self._queue_length -= 1
            self._inbox.put(self._tidy_queue)

    def close(self) -> None:
        """Free the model; requests in flight end with ``EngineClosedError``."""
        with self._submitting:
            self._closed = True
        self._inbox.put(self._stop_running)
        self._thread.join()
        with self._freeing:  # two may close at once
            self._vocabulary.close()
            self._release_native.close()

    def __enter__(self) -> LlamaCppEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self, prompt: Prompt, points: Sequence[ReadPoint], answer_tokens: int) -> None:
        layers = self._identity.n_layers
        for point in points:
            if point.layer >= layers:
                raise UnknownReadPointError(
                    f"{self._identity.source} has layers 0 to {layers - 1}, got layer {point.layer}"
                )
        self._check_tokens(prompt)
        if len(prompt.tokens) + answer_tokens > self._context_tokens:
            raise ContextOverflowError(
                f"the prompt has {len(prompt.tokens)} tokens and {answer_tokens} were asked for "
                f"the answer, but the context holds {self._context_tokens}; shorten the prompt, "
                "ask for a shorter answer, or raise context_tokens"
            )

    def _check_tokens(self, prompt: Prompt) -> None:
        if not prompt.tokens:
            raise InputError("the prompt has no tokens; wanted at least one")
        if not 0 <= min(prompt.tokens) <= max(prompt.tokens) < self._vocabulary.size:
            raise InputError(
                f"the prompt has tokens that are not among the {self._vocabulary.size} of "
                f"{self._identity.source}; render it with this engine"
            )

    # What follows runs on the engine's own thread.

    def _run(self) -> None:
        try:
            idle = True
            while True:
                self._take_orders(wait=idle)
                if not self._running:
                    break
                self._admit()
                call = self._next_call()
                idle = call.empty
                if not idle:
                    self._evaluate(call)
        except BaseException as error:  # noqa: BLE001 - reported to every caller
            self._end_everything(error)
        else:
            self._end_everything(EngineClosedError("the engine was closed; open another one"))

    def _take_orders(self, *, wait: bool) -> None:
        with contextlib.suppress(Empty):
            if wait:
                self._inbox.get()()
            while True:
                self._inbox.get_nowait()()

    def _stop_running(self) -> None:
        self._running = False

    def _admit(self) -> None:
        """Give waiting requests a place, in order of arrival.

        While one request evaluates its shared prefix, the next waits: it may share it.
        """
        while self._queue and self._running:
            request = self._queue[0]
            prefix = request.prompt.tokens[: request.prompt.own_start]
            if self._is_being_evaluated(prefix) or self._served >= self._parallel:
                return
            lease = self._cells.lease(prefix, len(request.prompt.tokens) + request.answer_tokens)
            if lease is None:
                return
            self._queue.popleft()
            if not self._leaves_queue(request):
                self._cells.release(lease)
                continue
            if lease.source is not None:
                self._copy_sequence(lease.source.sequence, lease.sequence, lease.shared)
            request.lease, request.stage = lease, Stage.PREFILL
            request.evaluated = request.cached = lease.shared
            self._prefilling.append(request)

    @property
    def _served(self) -> int:
        return len(self._prefilling) + len(self._held) + len(self._decoding)

    def _is_being_evaluated(self, prefix: Tokens) -> bool:
        """Whether a request under way will leave more of this prefix in the cache than is there."""
        kept = self._cells.longest_match(prefix)[1]
        return any(
            common_prefix(r.prompt.tokens[: r.prompt.own_start], prefix)
            >= max(kept + 1, SHORTEST_KEPT)
            for r in self._prefilling
            if r.evaluated < r.prompt.own_start
        )

    def _leaves_queue(self, request: Request) -> bool:
        """Account for a request that was taken out of the queue; whether anybody still wants it."""
        future = request.prefilled
        wanted = future is not None and future.set_running_or_notify_cancel()
        if wanted:  # else it was accounted for when it was cancelled
            with self._submitting:
                self._queue_length -= 1
        return wanted

    def _tidy_queue(self) -> None:
        """Take out requests whose futures were cancelled."""
        waiting = list(self._queue)
        self._queue.clear()
        for request in waiting:
            if request.prefilled is not None and request.prefilled.cancelled():
                self._leaves_queue(request)
            else:
                self._queue.append(request)

    def _next_call(self) -> Call:
        return next_call(
            [Waiting(tokens=r.stretch, gated=r.gated) for r in self._prefilling],
            decoding=len(self._decoding),
            after_prefill=self._after_gated_prefill,
            batch_tokens=_BATCH_TOKENS,
            decline_rate=self._decline_rate,
        )

    def _evaluate(self, call: Call) -> None:
        rows = self._rows
        rows.clear()
        decoding = list(self._decoding) if call.decode else []
        for request in decoding:
            place = len(request.prompt.tokens) + request.fed
            rows.add([request.generated[-1]], place, _sequence(request), outputs="last")
        parts: list[_Part] = []
        for index, count in call.prefill:
            part = self._add_prefill(self._prefilling[index], count)
            if part is not None:
                parts.append(part)
        now = time.perf_counter()
        for part in parts:
            part.request.started = part.request.started or now
        outcome = self._decode(rows, parts, decoding=bool(decoding))
        if outcome == "failed":
            self._fail_call([*decoding, *(part.request for part in parts)])
            return
        self.evaluated_tokens += rows.count
        self._after_gated_prefill = any(part.gated for part in parts)
        for row, request in enumerate(decoding):
            request.fed += 1
            self._advance(request, self._logits(row))
        for part in parts:
            self._after_prefill(part, whole=outcome == "done")

    def _add_prefill(self, request: Request, count: int) -> _Part | None:
        """Rows for the next ``count`` tokens of a prompt, fewer if their outputs would not fit."""
        rows, start = self._rows, request.evaluated
        own = start >= request.prompt.own_start
        last_layer = self._identity.n_layers - 1
        all_outputs = own and any(p.pooling != "last" for p in request.points.get(last_layer, ()))
        room = self._output_rows - rows.outputs
        if all_outputs:
            count = min(count, room)
        complete = start + count == len(request.prompt.tokens)
        if room <= 0 and (all_outputs or complete):
            return None
        first_row, first_output = rows.count, rows.outputs
        rows.add(
            request.prompt.tokens[start : start + count],
            start,
            _sequence(request),
            outputs="all" if all_outputs else "last" if complete else "none",
        )
        return _Part(
            request=request,
            rows=(first_row, count),
            outputs=(first_output, rows.outputs - first_output),
            complete=complete,
            own=own,
            gated=own and request.gate is not None,
        )

    def _decode(
        self, rows: BatchRows, parts: Sequence[_Part], *, decoding: bool
    ) -> Literal["done", "stopped", "failed"]:
        """Evaluate a call, to its end or until nobody in it wants to go on."""
        last_layer = self._identity.n_layers - 1
        layers = {layer for part in parts if part.own for layer in part.request.points}

        def on_layer(layer: int, stream: LayerRows) -> bool:
            for part in parts:
                if part.own and layer in part.request.points:
                    first, count = part.outputs if layer == last_layer else part.rows
                    if count:
                        part.request.read_layer(layer, stream, first, count, complete=part.complete)
            return decoding or not all(part.request.over for part in parts)

        if layers:
            self._tap.arm(layers, on_layer)
        try:
            failed = self._library.llama_decode(self._context, rows.batch()) != 0
        finally:
            stopped = self._tap.disarm()
        return "failed" if failed else "stopped" if stopped else "done"

    def _after_prefill(self, part: _Part, *, whole: bool) -> None:
        """What becomes of a prefill after a call; ``whole`` if that computed every layer."""
        request, (_, count) = part.request, part.rows
        request.evaluated += count
        if request.given_up:
            self._drop(request, whole=whole)
            return
        if part.gated and part.complete:
            declined = float(request.stopped_at is not None)
            self._decline_rate += _DECLINE_MEMORY * (declined - self._decline_rate)
        if request.stopped_at is not None:
            # Above the stop its cells hold garbage: they must not outlive this call.
            self._prefilling.remove(request)
            self._free(request)
            self._hand_over(request)
        elif request.evaluated == request.prompt.own_start:
            self._keep_prefix(request)
        elif part.complete:
            first, rows = part.rows
            request.logits = self._logits(first + rows - 1).copy()
            self._prefilling.remove(request)
            request.stage = Stage.HELD
            self._held.add(request)
            self._hand_over(request)

    def _hand_over(self, request: Request) -> None:
        request.finished = time.perf_counter()
        future, request.prefilled = request.prefilled, None
        if future is None:
            return
        if request.gate_error is not None:
            future.set_exception(request.gate_error)
            return
        future.set_result(
            LlamaCppPrefill(
                request,
                start_decoding=lambda r: self._inbox.put(lambda: self._start_decoding(r)),
                cancel=lambda r: self._inbox.put(lambda: self._cancel(r)),
            )
        )

    def _start_decoding(self, request: Request) -> None:
        sampling, logits = request.sampling, request.logits
        if sampling is None or logits is None or request.stage is not Stage.HELD:
            request.output.put(EngineClosedError("the engine was closed before decoding began"))
            return
        request.sampler = Sampler(self._library, sampling)
        request.text = StoppingText(sampling.stop)
        request.logits = None
        self._held.remove(request)
        self._decoding.append(request)
        request.stage = Stage.DECODE
        self._advance(request, logits)

    def _advance(self, request: Request, logits: NDArray[np.float32]) -> None:
        """Choose the next token; emit what text is certain; finish where the answer ends."""
        sampling, sampler, text = request.sampling, request.sampler, request.text
        assert sampling is not None  # noqa: S101 - set by `_start_decoding`
        assert sampler is not None  # noqa: S101
        assert text is not None  # noqa: S101
        token = sampler.choose(logits)
        if self._vocabulary.ends_answer(token):
            self._finish(request, "stop")
            return
        request.logprob += float(logits[token]) - log_normaliser(logits)
        request.generated.append(token)
        self._emit(request, text.feed(self._vocabulary.piece(token)))
        if text.stopped:
            self._finish(request, "stop")
        elif len(request.generated) >= sampling.max_tokens:
            self._finish(request, "length")

    def _emit(self, request: Request, text: str) -> None:
        if text:
            request.written.append(text)
            request.output.put(text)

    def _finish(self, request: Request, reason: FinishReason) -> None:
        text = request.text
        if text is not None:
            self._emit(request, text.finish())
            reason = "stop" if text.stopped else reason
        self._decoding.remove(request)
        in_cache = request.prompt.tokens + tuple(request.generated[: request.fed])
        self._free(request, keep=in_cache)
        count = len(request.generated)
        request.output.put(
            Answer(
                text="".join(request.written),
                model=self._identity.source,
                finish_reason=reason,
                usage=Usage(
                    prompt_tokens=len(request.prompt.tokens),
                    completion_tokens=count,
                    cached_tokens=request.cached,
                ),
                mean_logprob=request.logprob / count if count else None,
            )
        )

    def _cancel(self, request: Request) -> None:
        """Its caller went away: free what it holds, whatever stage it is in."""
        if request.stage is Stage.HELD:
            self._held.remove(request)
            self._free(request, keep=request.prompt.tokens)
        elif request.stage is Stage.PREFILL:
            self._drop(request, whole=True)
        elif request.stage is Stage.DECODE:
            self._decoding.remove(request)
            self._free(request)
            request.output.put(answer_given_up())

    def _drop(self, request: Request, *, whole: bool) -> None:
        """Its prefill was given up.

        What was evaluated stays in the cache where it is whole: whoever asks again, perhaps with
        as little patience, goes on from there.
        """
        evaluated = request.prompt.tokens[: request.evaluated]
        self._fail(request, prefill_given_up(), keep=evaluated if whole else None)

    def _fail_call(self, requests: Sequence[Request]) -> None:
        error = RoutingError(
            f"llama.cpp could not evaluate the batch: {_last(self._library.recent_log)}; "
            "the requests in it were dropped, later ones are served"
        )
        for request in requests:
            self._fail(request, error)

    def _fail(self, request: Request, error: BaseException, *, keep: Tokens | None = None) -> None:
        for group in (self._prefilling, self._decoding):
            if request in group:
                group.remove(request)
        self._held.discard(request)
        self._free(request, keep=keep)
        future, request.prefilled = request.prefilled, None
        if future is not None:
            future.set_exception(error)
        else:
            request.output.put(error)

    def _end_everything(self, error: BaseException) -> None:
        with self._submitting:
            self._closed = True
        self._take_orders(wait=False)
        waiting = [request for request in self._queue if self._leaves_queue(request)]
        self._queue.clear()
        for request in [*waiting, *self._prefilling, *self._held, *self._decoding]:
            self._fail(request, error)

    def _free(self, request: Request, *, keep: Tokens | None = None) -> None:
        request.stage = Stage.DONE
        request.logits = None
        if request.sampler is not None:
            request.sampler.close()
        lease, request.lease = request.lease, None
        if lease is not None:
            self._cells.release(lease, keep=keep)

    def _keep_prefix(self, request: Request) -> None:
        lease = request.lease
        if lease is None:
            return
        prefix = request.prompt.tokens[: request.prompt.own_start]
        copy = self._cells.keep_prefix(lease, prefix)
        if copy is not None:
            self._copy_sequence(lease.sequence, copy, len(prefix))

    def _copy_sequence(self, source: int, target: int, tokens: int) -> None:
        self._library.llama_memory_seq_cp(self._memory, source, target, 0, tokens)

    def _clear_sequence(self, sequence: int) -> None:
        self._library.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def _logits(self, row: int) -> NDArray[np.float32]:
        """Logits of a batch row: a view that the next call overwrites."""
        address = self._library.llama_get_logits_ith(self._context, row)
        return _float_view(address, self._vocabulary.size)


@dataclass(frozen=True, slots=True)
class _Part:
    """One request's share of a call: where its rows and its outputs lie."""

    request: Request
    rows: tuple[int, int]
    outputs: tuple[int, int]
    complete: bool
    own: bool
    gated: bool


def _sequence(request: Request) -> int:
    assert request.lease is not None  # noqa: S101 - a request in a call has its place
    return request.lease.sequence


def _check_readable(library: LlamaLibrary, model: int, path: Path) -> None:
    for trait, what in (
        ("llama_model_has_encoder", "an encoder"),
        ("llama_model_is_recurrent", "recurrent layers"),
        ("llama_model_is_hybrid", "recurrent layers"),
    ):
        if getattr(library, trait)(model):
            raise ModelFileError(
                f"{path.name} has {what}; the llamacpp engine reads decoder-only transformers"
            )


def _chat_template(
    library: LlamaLibrary, model: int, vocabulary: Vocabulary, path: Path
) -> ChatTemplate:
    source: bytes | None = library.llama_model_chat_template(model, None)
    if source is None:
        raise ModelFileError(
            f"{path.name} carries no chat template; wanted an instruction-tuned model"
        )
    return ChatTemplate(
        source.decode(),
        bos_token=vocabulary.bos_text,
        eos_token=vocabulary.eos_text,
        controls=vocabulary.control_texts,
    )


def _float_view(address: int, size: int) -> NDArray[np.float32]:
    return np.ctypeslib.as_array(c.cast(address, c.POINTER(c.c_float)), (size,))


def _result(future: Future[LlamaCppPrefill], given_up: GivenUp | None) -> LlamaCppPrefill:
    """What the engine's thread hands over; meanwhile this one asks whether anybody wants it."""
    while given_up is not None:
        try:
            future.exception(ASK_EVERY_S)
        except TimeoutError:
            refuse_when_given_up(given_up)
        else:
            break
    return future.result()


def _last(lines: deque[str]) -> str:
    return lines[-1] if lines else "no reason given"
