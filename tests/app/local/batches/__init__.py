"""What the process that works on batches promises."""
