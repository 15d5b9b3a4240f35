"""``tallyroll audit``: the trail, its proofs, removal, rules and keys; ``command`` is where it begins."""
