"""SQL over the archive, through DuckDB; the only place that imports it."""
