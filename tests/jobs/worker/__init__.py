"""Promises of jobs/worker."""
