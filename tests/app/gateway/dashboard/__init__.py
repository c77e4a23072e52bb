"""Promises of app/gateway/dashboard."""
