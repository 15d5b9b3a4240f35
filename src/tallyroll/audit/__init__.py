"""The audit ledger: entries that an outsider can check, without trusting who keeps them.

``layout``, ``tree`` and ``note`` say what the bytes mean; ``chain`` writes, ``ledger`` takes in, ``exporting`` gives to the
auditor, ``verify`` is the auditor's own program and shares no code with the rest.
"""
