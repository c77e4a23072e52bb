"""Promises of jobs/cli/batches."""
