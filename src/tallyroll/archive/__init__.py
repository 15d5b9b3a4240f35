"""OUT OF THE LOG, FOR GOOD: every record of the log in immutable segments, found again by owner, with snapshots."""
