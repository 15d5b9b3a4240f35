"""The audit ledger: entries that an outsider can check, without trusting who keeps them.

``ledger`` says what the bytes mean. ``recording`` writes them in the caller's process and ``sealing`` takes them in; ``reading``
gives out what is there, ``removal`` takes away what may not stay. ``compliance`` is what laws and standards ask. ``verify`` is the
auditor's own program and shares no code with the rest. ``trail`` is what programs call.
"""
