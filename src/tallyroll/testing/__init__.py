"""What tests of tallyroll, and of adapters for it, are made with: contract suites, builders, a clock that is moved by hand.

Free of pytest. A third party's adapter proves itself with the same suites: ``log_contract`` for event logs.
"""
