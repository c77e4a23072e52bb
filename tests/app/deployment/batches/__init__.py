"""Promises of app/deployment."""
