"""Segments of the archive as Parquet, through pyarrow; the only place that imports it."""
