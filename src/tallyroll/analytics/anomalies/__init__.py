"""What is unusual in a series: detectors, baselines, incidents, and what they would have said of the past."""
