"""Frozen values that every room speaks in; no behaviour beyond checking themselves."""

from foretell.records._decisions import Action, Decision, Estimate, Reply
from foretell.records._flywheel import Event, Job, JobState, TrafficLog, Vote
from foretell.records._models import ModelIdentity, Role
from foretell.records._observations import Observation, Origin
from foretell.records._queries import (
    Answer,
    FinishReason,
    FirstToken,
    Message,
    Outcome,
    Query,
    Sampling,
    Split,
    Usage,
    content_text,
    last_asked,
)
from foretell.records._read_points import Pooling, ReadPoint
from foretell.records._requests import (
    ApiKey,
    Feedback,
    KeyLimits,
    LedgerLine,
    MeteredUsage,
    RequestRecord,
)
from foretell.records._routing_data import OPTIONAL_COLUMNS, RoutingData, TokenActivations
from foretell.records._subspaces import Basis, Subspace

__all__ = [
    "OPTIONAL_COLUMNS",
    "Action",
    "Answer",
    "ApiKey",
    "Basis",
    "Decision",
    "Estimate",
    "Event",
    "Feedback",
    "FinishReason",
    "FirstToken",
    "Job",
    "JobState",
    "KeyLimits",
    "LedgerLine",
    "Message",
    "MeteredUsage",
    "ModelIdentity",
    "Observation",
    "Origin",
    "Outcome",
    "Pooling",
    "Query",
    "ReadPoint",
    "Reply",
    "RequestRecord",
    "Role",
    "RoutingData",
    "Sampling",
    "Split",
    "Subspace",
    "TokenActivations",
    "TrafficLog",
    "Usage",
    "Vote",
    "content_text",
    "last_asked",
]
