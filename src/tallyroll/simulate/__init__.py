"""A made-up fleet of agents as a stream of events, completely determined by its seed. Pure: publishing is the caller's part."""

from tallyroll.simulate.fleet import Fleet

__all__ = ["Fleet"]
