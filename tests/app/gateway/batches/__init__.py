"""Promises of app/gateway/batches."""
