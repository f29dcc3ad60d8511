"""Domains that come with foretell: real queries with references, to try everything on."""

from collections.abc import Callable

from foretell.errors import InputError
from foretell.evaluation.domains._domain import Domain
from foretell.evaluation.domains._extraction import load_extraction
from foretell.evaluation.domains._geo import load_geo

__all__ = ["DOMAIN_NAMES", "Domain", "load_domain"]

_LOADERS: dict[str, Callable[..., Domain]] = {
    "extraction": load_extraction,
    "geo": load_geo,
}

DOMAIN_NAMES = tuple(_LOADERS)


def load_domain(name: str, *, train: int, test: int, seed: int = 0) -> Domain:
    """The domain of that name with so many training and test queries.

    The same arguments give the same domain. No group of queries straddles the two splits.

    Raises ``InputError`` for an unknown name, or sizes that the domain cannot fill.
    """
    loader = _LOADERS.get(name)
    if loader is None:
        raise InputError(f"unknown domain {name!r}; use one of: {', '.join(DOMAIN_NAMES)}")
    return loader(train=train, test=test, seed=seed)
