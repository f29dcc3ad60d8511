"""Which observations are of the same model."""

from __future__ import annotations

import hashlib

from foretell.records import ModelIdentity


def model_key(model: ModelIdentity | str) -> str:
    """The key under which a model's observations are stored.

    Weights that we can name are keyed by their hash and that of the chat template, as in
    ``ModelIdentity.serves_probes_of``; a model behind an API by its name (``Answer.model``).
    """
    if isinstance(model, str):
        return model
    identity = f"{model.weights_sha256}\n{model.chat_template_sha256}"
    return f"sha256:{hashlib.sha256(identity.encode()).hexdigest()}"
