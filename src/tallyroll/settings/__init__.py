"""What can be set, where it is set, and what is refused."""

from tallyroll.settings.checks import AUDIT_FRAMEWORK_NAMES
from tallyroll.settings.secret import Secret, key_bytes
from tallyroll.settings.settings import Settings, Synchronous, settings_and_sources, variable_of
from tallyroll.settings.sources import BOOTSTRAP_VARIABLE, CONFIG_VARIABLE, Source, Variable

__all__ = [
    "AUDIT_FRAMEWORK_NAMES",
    "BOOTSTRAP_VARIABLE",
    "CONFIG_VARIABLE",
    "Secret",
    "Settings",
    "Source",
    "Synchronous",
    "Variable",
    "key_bytes",
    "settings_and_sources",
    "variable_of",
]
