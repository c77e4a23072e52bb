"""Promises of jobs/core."""
