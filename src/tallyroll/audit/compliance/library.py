"""The rules that come with tallyroll, read from the file beside this module."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from tallyroll.audit.compliance.rules import RuleSet, rule_set_from_toml


@cache
def library() -> RuleSet:
    """SOX, GDPR, HIPAA, PCI DSS, SOC 2, ISO 27001, NIST, the EU AI Act, and house rules for agents; each with its citation."""
    return rule_set_from_toml(files("tallyroll.audit.compliance").joinpath("library.toml").read_text("utf-8"), "library.toml")
