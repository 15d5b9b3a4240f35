"""``python -m tallyroll.cli`` is the ``tallyroll`` command."""

from tallyroll.cli import main

main()
