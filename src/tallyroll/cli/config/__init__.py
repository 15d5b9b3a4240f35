"""``tallyroll config``: the settings in force; ``command`` is where it begins."""
