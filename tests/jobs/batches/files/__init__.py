"""Promises of jobs/batches/files."""
