"""NATS, through nats-py: alerts on subjects."""
