"""From the log to what others read and listen to. Each bridge is a follower of its own; the log stays the truth."""
