"""Promises of app/scheduler."""
