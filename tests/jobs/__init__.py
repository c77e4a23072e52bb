"""Promises of jobs, folder by folder."""
