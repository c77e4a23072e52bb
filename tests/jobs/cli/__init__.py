"""Promises of jobs/cli."""
