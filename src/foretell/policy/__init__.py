"""Estimate, prices and limits in, decision out; nothing else."""

from foretell.policy._decide import decide
from foretell.policy._gate import EarlyExitGate, GateReading, GateStage, Vectors, early_exit_gate

__all__ = ["EarlyExitGate", "GateReading", "GateStage", "Vectors", "decide", "early_exit_gate"]
