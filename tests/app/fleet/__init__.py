"""Promises of app/fleet."""
