"""``tallyroll analytics``: numbers, anomalies, alerts; ``command`` is where it begins."""
