"""What an attempt at a batch promises."""
