"""Promises of jobs/batches/lines."""
