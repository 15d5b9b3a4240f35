"""The only place that imports client libraries, one folder per technology."""
