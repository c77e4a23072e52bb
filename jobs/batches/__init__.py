"""Batches: many lines of one file, answered once each. What is written down of them, where they lie, what they take.

records  what is written down of a file and of a batch
"""
