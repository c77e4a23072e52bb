"""Promises of jobs/tasks."""
