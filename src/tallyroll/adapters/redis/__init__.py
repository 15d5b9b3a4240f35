"""Redis, through redis-py: alerts on channels, states of agents, the outbox of created tasks."""
