"""Redis, through redis-py: alerts on channels."""
