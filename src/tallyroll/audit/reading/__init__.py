"""What is given out: pages of the trail, integrity, proofs, reports, evidence, exports."""
