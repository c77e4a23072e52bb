"""Promises of app/gateway/upstream."""
