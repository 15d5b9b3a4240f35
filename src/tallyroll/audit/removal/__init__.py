"""What is taken away, and how the proofs stay valid: erasure, retention, holds."""
