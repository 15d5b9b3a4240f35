"""``tallyroll doctor``: is everything as it should be; ``command`` is where it begins."""
