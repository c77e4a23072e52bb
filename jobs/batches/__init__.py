"""Batches: many lines of one file, answered once each. What is written down of them, where they lie, what they take.

records      what is written down of a file and of a batch
start_rules  when a batch begins: at once, when a GPU is awake anyway, in a window, in time for its deadline
woken_tiers  what the servers of a tier are told that a batch has woken, so that they leave when it is over
"""
