"""Replays of a model that is not here: activations and answers from a file."""

from foretell.prefill.engines.recorded._answers import RecordedAnswers
from foretell.prefill.engines.recorded._engine import RecordedEngine
from foretell.prefill.engines.recorded._record import record
from foretell.prefill.engines.recorded._recording import write_recording

__all__ = ["RecordedAnswers", "RecordedEngine", "record", "write_recording"]
