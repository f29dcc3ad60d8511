"""A deterministic NumPy decoder of a few layers: a real engine for quick tests."""

from foretell.prefill.engines.tiny._engine import TinyEngine

__all__ = ["TinyEngine"]
