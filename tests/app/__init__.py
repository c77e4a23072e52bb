"""Promises of app, folder by folder."""
