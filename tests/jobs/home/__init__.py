"""Promises of jobs/home."""
