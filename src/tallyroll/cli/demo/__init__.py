"""``tallyroll demo``: the whole idea in a minute; ``command`` is where it begins."""
