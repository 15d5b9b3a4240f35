"""Pages over HTTP, with the standard library: for probes and scrapers, not for people's browsers."""
