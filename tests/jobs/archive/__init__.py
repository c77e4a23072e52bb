"""Promises of jobs/archive."""
