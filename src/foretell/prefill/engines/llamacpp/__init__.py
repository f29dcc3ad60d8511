"""llama.cpp in this process: reads activations with the scheduler's evaluation callback."""

from foretell.prefill.engines.llamacpp._capi import describe_library
from foretell.prefill.engines.llamacpp._engine import LlamaCppEngine

__all__ = ["LlamaCppEngine", "describe_library"]
