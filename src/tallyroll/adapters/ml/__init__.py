"""Detectors that learn, of other libraries: river and scikit-learn."""
