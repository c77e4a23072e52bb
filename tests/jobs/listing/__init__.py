"""Tests of `jobs.listing`."""
