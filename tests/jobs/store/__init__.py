"""Promises of jobs/store."""
