"""What probabilities are worth: scores, calibration, temperature, reliability diagrams."""
