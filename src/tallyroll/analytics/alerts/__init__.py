"""Alerts: rules as data, one life cycle for everything that fires, an outbox, and queues in front of the sinks."""
