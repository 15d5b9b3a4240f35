"""``tallyroll run``: services; ``command`` is where it begins."""
