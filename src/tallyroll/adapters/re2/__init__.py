"""RE2: patterns in one pass and in linear time. Needs the extra ``audit``."""

from tallyroll.adapters.re2.finder import Re2Finder

__all__ = ["Re2Finder"]
