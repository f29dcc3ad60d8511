"""Activations out of an engine at read points; pooling; early exit."""

from foretell.prefill._protocol import Gate, Generation, Prefill, PrefillEngine, Prompt

__all__ = ["Gate", "Generation", "Prefill", "PrefillEngine", "Prompt"]
