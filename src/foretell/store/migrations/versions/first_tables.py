"""Models, queries, observations and outcomes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the first tables."""
    op.create_table(
        "models",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("identity", sa.JSON(none_as_null=True)),
    )
    op.create_table(
        "queries",
        sa.Column("domain", sa.String, primary_key=True),
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("messages", sa.JSON, nullable=False),
        sa.Column("reference", sa.JSON(none_as_null=True)),
        sa.Column("group_id", sa.String),
        sa.Column("split", sa.String),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("recorded_at", sa.Double, nullable=False),
    )
    op.create_table(
        "observations",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("domain", sa.String, nullable=False),
        sa.Column("query_id", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("model_key", sa.String, sa.ForeignKey("models.key"), nullable=False),
        sa.Column("rollout", sa.Integer, nullable=False),
        sa.Column("answer_text", sa.String, nullable=False),
        sa.Column("answer_model", sa.String, nullable=False),
        sa.Column("finish_reason", sa.String, nullable=False),
        sa.Column("prompt_tokens", sa.Integer, nullable=False),
        sa.Column("completion_tokens", sa.Integer, nullable=False),
        sa.Column("cached_tokens", sa.Integer, nullable=False),
        sa.Column("mean_logprob", sa.Double),
        sa.Column("first_token", sa.JSON(none_as_null=True)),
        sa.Column("own_tokens", sa.Integer),
        sa.Column("seconds", sa.Double),
        sa.Column("vector_shard", sa.String),
        sa.Column("vector_row", sa.Integer),
        sa.Column("recorded_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(
            ["domain", "query_id"], ["queries.domain", "queries.id"], ondelete="CASCADE"
        ),
        sa.UniqueConstraint("domain", "query_id", "role", "model_key", "rollout"),
    )
    op.create_table(
        "outcomes",
        sa.Column("domain", sa.String, primary_key=True),
        sa.Column("query_id", sa.String, primary_key=True),
        sa.Column("role", sa.String, primary_key=True),
        sa.Column("model_key", sa.String, primary_key=True),
        sa.Column("metric", sa.String, primary_key=True),
        sa.Column("source", sa.String, primary_key=True),
        sa.Column("author", sa.String, primary_key=True),
        sa.Column("value", sa.Double),
        sa.Column("note", sa.String, nullable=False),
        sa.Column("recorded_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(
            ["domain", "query_id"], ["queries.domain", "queries.id"], ondelete="CASCADE"
        ),
    )
