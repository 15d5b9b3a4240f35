"""``tallyroll replay``: states made from the history; ``command`` is where it begins."""
