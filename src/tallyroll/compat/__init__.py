"""The module names that users of earlier modules know: ``from utils.X`` becomes ``from tallyroll.compat.X``."""
