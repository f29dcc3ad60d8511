"""Requests that a gateway served, feedback on them, its callers' keys, its configurations."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the gateway's tables."""
    op.create_table(
        "requests",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("day", sa.String, nullable=False),
        sa.Column("key_id", sa.String, nullable=False),
        sa.Column("route", sa.String),
        sa.Column("domain", sa.String),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("serve", sa.String),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("cause", sa.String),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("streamed", sa.Boolean, nullable=False),
        sa.Column("p_success", sa.Double),
        sa.Column("p_strong", sa.Double),
        sa.Column("keep_at", sa.Double),
        sa.Column("propensity", sa.Double),
        sa.Column("explored", sa.Boolean, nullable=False),
        sa.Column("probe", sa.String),
        sa.Column("session", sa.String),
        sa.Column("prompt_tokens", sa.BigInteger),
        sa.Column("completion_tokens", sa.BigInteger),
        sa.Column("cached_tokens", sa.BigInteger),
        sa.Column("reasoning_tokens", sa.BigInteger),
        sa.Column("weak_usd", sa.Double),
        sa.Column("strong_usd", sa.Double),
        sa.Column("cost_usd", sa.Double),
        sa.Column("always_strong_usd", sa.Double),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("first_byte_s", sa.Double),
        sa.Column("prefill_s", sa.Double),
        sa.Column("overhead_s", sa.Double),
        sa.Column("finish_reason", sa.String),
    )
    op.create_index("requests_at", "requests", ["at"])
    op.create_index("requests_key_id_at", "requests", ["key_id", "at"])
    op.create_table(
        "feedback",
        sa.Column(
            "request_id",
            sa.String,
            sa.ForeignKey("requests.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("metric", sa.String, primary_key=True),
        sa.Column("source", sa.String, primary_key=True),
        sa.Column("author", sa.String, primary_key=True),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("note", sa.String, nullable=False),
        sa.Column("recorded_at", sa.Double, nullable=False),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("sha256", sa.String, nullable=False, unique=True),
        sa.Column("routes", sa.JSON(none_as_null=True)),
        sa.Column("requests_per_minute", sa.Double),
        sa.Column("concurrent", sa.Integer),
        sa.Column("usd_per_day", sa.Double),
        sa.Column("escalations_per_day", sa.Integer),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double),
    )
    op.create_table(
        "config_versions",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("hash", sa.String, nullable=False),
        sa.Column("text", sa.String, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
