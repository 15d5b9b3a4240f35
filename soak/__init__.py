"""Many minutes of faults on the whole system with real servers, and a judgement of what is left; see ``scripts/soak``."""
