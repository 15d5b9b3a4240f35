"""What laws and standards ask of entries, as data and as pure functions; and what in an entry is personal."""
