"""The tables as they are now; ``migrations`` says how they came about."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

metadata = MetaData()

# `identity` is NULL for a model behind an API, whose weights nobody can name.
models = Table(
    "models",
    metadata,
    Column("key", String, primary_key=True),
    Column("identity", JSON(none_as_null=True)),
)

queries = Table(
    "queries",
    metadata,
    Column("domain", String, primary_key=True),
    Column("id", String, primary_key=True),
    Column("messages", JSON, nullable=False),
    Column("reference", JSON(none_as_null=True)),
    Column("group_id", String),
    Column("split", String),
    Column("attributes", JSON, nullable=False),
    Column("recorded_at", Double, nullable=False),
)

# Times are seconds since 1970 (UTC). A vector is row `vector_row` of the Parquet file
# `vector_shard` in the vectors folder; both are NULL when nothing was read.
observations = Table(
    "observations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("domain", String, nullable=False),
    Column("query_id", String, nullable=False),
    Column("role", String, nullable=False),
    Column("model_key", String, ForeignKey("models.key"), nullable=False),
    Column("rollout", Integer, nullable=False),
    Column("answer_text", String, nullable=False),
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
    Column("note", String, nullable=False),
    Column("recorded_at", Double, nullable=False),
    ForeignKeyConstraint(
        ["domain", "query_id"], ["queries.domain", "queries.id"], ondelete="CASCADE"
    ),
)
