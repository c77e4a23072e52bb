"""Promises of jobs/http."""
