"""Where queries come from, what requests say of the weak model, events, jobs, facts."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what the flywheel reads and writes."""
    op.add_column("queries", sa.Column("tenant", sa.String, nullable=False, server_default=""))
    op.add_column(
        "queries", sa.Column("origin", sa.String, nullable=False, server_default="collected")
    )
    op.create_index("queries_tenant", "queries", ["tenant"])
    op.create_index("queries_origin_recorded_at", "queries", ["origin", "recorded_at"])
    op.create_index("observations_vector_shard", "observations", ["vector_shard"])
    if op.get_bind().dialect.name == "postgresql":  # 32 bits last for a month of heavy traffic
        op.alter_column("observations", "id", type_=sa.BigInteger)
        op.execute("ALTER SEQUENCE observations_id_seq AS bigint")
    op.add_column("requests", sa.Column("weak_model", sa.String))
    op.add_column("requests", sa.Column("weak_chance", sa.Double))
    op.add_column("requests", sa.Column("pair_chance", sa.Double))
    op.add_column("requests", sa.Column("shadow_probe", sa.String))
    op.add_column("requests", sa.Column("shadow_p_success", sa.Double))
    op.create_index("requests_domain_at", "requests", ["domain", "at"])
    op.add_column("feedback", sa.Column("key_id", sa.String, nullable=False, server_default=""))
    # Until now feedback came with the key of its request, but for what operators said.
    op.execute(
        "UPDATE feedback SET key_id = "
        "(SELECT requests.key_id FROM requests WHERE requests.id = feedback.request_id)"
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
    )
    op.create_index("events_kind_subject_at", "events", ["kind", "subject", "at"])
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("args", sa.JSON, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("not_before", sa.Double, nullable=False),
        sa.Column("worker", sa.String),
        sa.Column("started_at", sa.Double),
        sa.Column("beat_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("progress", sa.Double),
        sa.Column("message", sa.String, nullable=False),
        sa.Column("result", sa.JSON, nullable=False),
    )
    op.create_index("jobs_state", "jobs", ["state"])
    op.create_table(
        "store_facts",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
