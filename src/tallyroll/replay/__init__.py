"""State from the log: the fold that runs live and over a bounded span, and gives the same answer in both."""
