"""Promises of app/gateway/dashboard/batches."""
