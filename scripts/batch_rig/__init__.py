"""What the benchmarks of batches share."""
