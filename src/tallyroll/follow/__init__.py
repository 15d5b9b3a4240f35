"""Out of the log: the only consume loop, its retries, its dead letters."""
