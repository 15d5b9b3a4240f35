"""Live numbers: one definition per metric, one-minute panes that merge, and everything else read from those."""
