"""The audit ledger: entries that an outsider can check, without trusting who keeps them.

``layout``, ``tree`` and ``note`` say what the bytes mean; ``chain`` writes, under the keys that ``subjects`` finds; ``ledger``
takes in, ``exporting`` gives to the auditor, ``verify`` is the auditor's own program and shares no code with the rest.
``entry``, ``rules`` and ``library`` say how long an entry is kept, how well it is protected, and what is wrong with it; ``pii`` what
in it is personal.
"""
