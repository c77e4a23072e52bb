"""Promises of jobs/batches."""
