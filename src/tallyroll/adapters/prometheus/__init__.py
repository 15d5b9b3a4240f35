"""Metrics in the form that Prometheus scrapes, through prometheus_client."""
