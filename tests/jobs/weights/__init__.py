"""Promises of jobs/weights."""
