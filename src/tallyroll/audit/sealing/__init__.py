"""The follower ``audit``: records are judged as they arrive, other events get derived entries, all of it is checkpointed and witnessed."""
