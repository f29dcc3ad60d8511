"""What a labeller may borrow beside its options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

from foretell.config import OpenAIModel
from foretell.errors import ConfigError, InputError
from foretell.flywheel._judge_cache import JudgeCache
from foretell.flywheel._judge_models import JudgeModel, StructuredChat, price_of
from foretell.records import Answer, Observation
from foretell.runtime import Foretell
from foretell.store import Store, model_key
from foretell.upstreams import BlockingChat, PriceBook, cost_usd

_CACHE_NAME: Final = "judge-cache.sqlite"


def forget_verdicts(vectors: Path) -> None:
    """Delete the judge's cache beside a store's ``vectors``: a reply can quote what was judged."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        (vectors.parent / f"{_CACHE_NAME}{suffix}").unlink(missing_ok=True)


class Workshop:
    """Lends labellers of one domain the configured models and what is stored.

    What it lends is taken back when it is closed. ``strong`` finds the key of the strong model
    whose answers count, ``None`` where there is only one.
    """

    def __init__(
        self,
        ft: Foretell,
        store: Store,
        domain: str,
        *,
        strong: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._ft = ft
        self._store = store
        self._domain = domain
        self._strong = strong
        self._release = ExitStack()

    def judge_model(self, name: str, schema: Mapping[str, Any]) -> JudgeModel:
        """A configured model that answers as a JSON Schema says, where its API can do that.

        A model that runs here costs nothing unless it has a price. Raises ``ConfigError`` when no
        model has that name.
        """
        config = self._ft.config.models.get(name)
        if config is None:
            known = ", ".join(sorted(self._ft.config.models))
            raise ConfigError(f"no model is called {name!r}; known are {known}")
        if isinstance(config, OpenAIModel):
            chat = BlockingChat(StructuredChat(name, config, schema))
            self._release.callback(chat.close)
            return JudgeModel(
                name=name,
                source=config.model,
                ask=chat.chat,
                cost_usd=price_of(config, PriceBook()),
            )
        model = self._ft.open_configured(name)
        return JudgeModel(
            name=name,
            source=model.source,
            ask=model.answer,
            cost_usd=lambda usage: cost_usd(usage, model.price) or 0.0,
        )

    def judge_cache(self, path: Path | None = None) -> JudgeCache:
        """The cache in a file; in the folder that the vectors' folder is in when left out."""
        cache = JudgeCache(path or self._ft.config.store.vectors.parent / _CACHE_NAME)
        self._release.callback(cache.close)
        return cache

    def strong_answers(self) -> Mapping[str, Answer]:
        """By query, the first answer of the strong model that counts.

        Raises ``InputError`` when several have answered and none was chosen.
        """
        observations = [
            one for one in self._store.observations(self._domain, "strong") if one.rollout == 0
        ]
        counts = Counter(map(_key, observations))
        if len(counts) > 1:
            chosen = self._strong()
            if chosen is None:
                raise InputError(
                    f"several strong models have answered: {', '.join(sorted(counts))}; "
                    "choose one with --strong"
                )
            observations = [one for one in observations if _key(one) == chosen]
        return {one.query.id: one.answer for one in observations}

    def close(self) -> None:
        """Give up what was lent; safe to call twice."""
        self._release.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _key(observation: Observation) -> str:
    return model_key(observation.model or observation.answer.model)
