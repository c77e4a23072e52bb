"""Batches: many lines of one file, answered once each. What is written down of them, where they lie, what they take.

batch_store  posts, finds, lists and cancels batches, by what is written down of them
passes       what lines of a batch show the gateway in place of a key, and how it answers them
records      what is written down of a file and of a batch
"""
