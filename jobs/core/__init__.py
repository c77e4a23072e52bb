"""TODO: one sentence: what lives here; then a line for each file."""
