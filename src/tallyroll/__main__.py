"""``python -m tallyroll`` is the ``tallyroll`` command."""

from tallyroll.cli import main

main()
