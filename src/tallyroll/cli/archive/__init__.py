"""``tallyroll archive``: what topics forget; ``command`` is where it begins."""
