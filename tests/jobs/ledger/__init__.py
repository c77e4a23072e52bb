"""Promises of jobs/ledger."""
