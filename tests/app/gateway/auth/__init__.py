"""Promises of app/gateway/auth."""
