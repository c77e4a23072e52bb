"""Promises of app/gateway/protocol."""
