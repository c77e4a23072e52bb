"""Promises of app/local."""
