"""The tables as they are now; ``migrations`` says how they came about.

Texts are in sealed columns, which an encrypted store encrypts.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from foretell.store._sealed_columns import SealedJson, SealedText

metadata = MetaData()

# `identity` is NULL for a model behind an API, whose weights nobody can name.
models = Table(
    "models",
    metadata,
    Column("key", String, primary_key=True),
    Column("identity", JSON(none_as_null=True)),
)

# `tenant` is the key that a query of origin "traffic" came with; its id is that of the request.
queries = Table(
    "queries",
    metadata,
    Column("domain", String, primary_key=True),
    Column("id", String, primary_key=True),
    Column("messages", SealedJson("a query"), nullable=False),
    Column("reference", SealedJson("a reference")),
    Column("group_id", String),
    Column("split", String),
    Column("attributes", SealedJson("a query's attributes"), nullable=False),
    Column("recorded_at", Double, nullable=False),
    Column("tenant", String, nullable=False, server_default=""),
    Column("origin", String, nullable=False, server_default="collected"),
    Index("queries_tenant", "tenant"),
    Index("queries_origin_recorded_at", "origin", "recorded_at"),
)

# Times are seconds since 1970 (UTC). A vector is row `vector_row` of the Parquet file
# `vector_shard` in the vectors folder; both are NULL when nothing was read.
observations = Table(
    "observations",
    metadata,
    # SQLite numbers rows with 64 bits by itself, but only those of a column of this very type.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("domain", String, nullable=False),
    Column("query_id", String, nullable=False),
    Column("role", String, nullable=False),
    Column("model_key", String, ForeignKey("models.key"), nullable=False),
    Column("rollout", Integer, nullable=False),
    Column("answer_text", SealedText("an answer"), nullable=False),
    Column("answer_model", String, nullable=False),
    Column("finish_reason", String, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("mean_logprob", Double),
    Column("first_token", JSON(none_as_null=True)),
    Column("own_tokens", Integer),
    Column("seconds", Double),
    Column("vector_shard", String),
    Column("vector_row", Integer),
    Column("recorded_at", Double, nullable=False),
    ForeignKeyConstraint(
        ["domain", "query_id"], ["queries.domain", "queries.id"], ondelete="CASCADE"
    ),
    UniqueConstraint("domain", "query_id", "role", "model_key", "rollout"),
    Index("observations_vector_shard", "vector_shard"),
)

# `model_key` says whose answer was judged; "" when no answer in that role was stored.
outcomes = Table(
    "outcomes",
    metadata,
    Column("domain", String, primary_key=True),
    Column("query_id", String, primary_key=True),
    Column("role", String, primary_key=True),
    Column("model_key", String, primary_key=True),
    Column("metric", String, primary_key=True),
    Column("source", String, primary_key=True),
    Column("author", String, primary_key=True),
    Column("value", Double),
    Column("note", SealedText("a note"), nullable=False),
    Column("recorded_at", Double, nullable=False),
    ForeignKeyConstraint(
        ["domain", "query_id"], ["queries.domain", "queries.id"], ondelete="CASCADE"
    ),
)

# `day` (UTC, such as "2026-03-01") follows from `at`; databases do not agree on how to work it out.
# The tokens are NULL when the provider did not say. Big, since others counted them.
requests = Table(
    "requests",
    metadata,
    Column("id", String, primary_key=True),
    Column("at", Double, nullable=False),
    Column("day", String, nullable=False),
    Column("key_id", String, nullable=False),
    Column("route", String),
    Column("domain", String),
    Column("model", String, nullable=False),
    Column("serve", String),
    Column("action", String, nullable=False),
    Column("cause", String),
    Column("status", Integer, nullable=False),
    Column("streamed", Boolean, nullable=False),
    Column("p_success", Double),
    Column("p_strong", Double),
    Column("keep_at", Double),
    Column("propensity", Double),
    Column("explored", Boolean, nullable=False),
    Column("probe", String),
    Column("session", String),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("weak_usd", Double),
    Column("strong_usd", Double),
    Column("cost_usd", Double),
    Column("always_strong_usd", Double),
    Column("seconds", Double, nullable=False),
    Column("first_byte_s", Double),
    Column("prefill_s", Double),
    Column("overhead_s", Double),
    Column("finish_reason", String),
    Column("weak_model", String),
    Column("weak_chance", Double),
    Column("pair_chance", Double),
    Column("shadow_probe", String),
    Column("shadow_p_success", Double),
    Index("requests_at", "at"),
    Index("requests_key_id_at", "key_id", "at"),
    Index("requests_domain_at", "domain", "at"),
)

feedback = Table(
    "feedback",
    metadata,
    Column("request_id", String, ForeignKey("requests.id", ondelete="CASCADE"), primary_key=True),
    Column("metric", String, primary_key=True),
    Column("source", String, primary_key=True),
    Column("author", String, primary_key=True),
    Column("value", Double, nullable=False),
    Column("note", SealedText("a note"), nullable=False),
    Column("recorded_at", Double, nullable=False),
    Column("key_id", String, nullable=False, server_default=""),
)

# Of a key itself only the hash is here. A limit that is NULL sets none.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("sha256", String, nullable=False, unique=True),
    Column("routes", JSON(none_as_null=True)),
    Column("requests_per_minute", Double),
    Column("concurrent", Integer),
    Column("usd_per_day", Double),
    Column("escalations_per_day", Integer),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
)

# A configuration that comes back (a rollback) is a version of its own, with the hash of the first.
config_versions = Table(
    "config_versions",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("hash", String, nullable=False),
    Column("text", String, nullable=False),
    Column("by", String, nullable=False),
    Column("at", Double, nullable=False),
)

# Rows are only ever added.
events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("by", String, nullable=False),
    Column("details", JSON, nullable=False),
    Index("events_kind_subject_at", "kind", "subject", "at"),
)

# `worker` has claimed the job and says so by `beat_at`. Nobody takes a job before `not_before`.
jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False),
    Column("args", JSON, nullable=False),
    Column("state", String, nullable=False),
    Column("by", String, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("not_before", Double, nullable=False),
    Column("worker", String),
    Column("started_at", Double),
    Column("beat_at", Double),
    Column("finished_at", Double),
    Column("attempts", Integer, nullable=False),
    Column("progress", Double),
    Column("message", String, nullable=False),
    Column("result", JSON, nullable=False),
    Index("jobs_state", "state"),
)

# What the store knows of itself: made once, never changed.
store_facts = Table(
    "store_facts",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
)
