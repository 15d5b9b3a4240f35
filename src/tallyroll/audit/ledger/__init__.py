"""What the ledger is: bytes of records, chains, trees, signed notes and proofs, as ``docs/reference/ledger-format.md`` has them."""
