"""Batches: many lines of one file, answered once each. What is written down of them, where they lie, what they take.

records  what is written down of a file and of a batch
estimate  what a batch will take, and what it may cost
speed  what finished batches measured, and what follows from it
limits  what is declared of batches
measuring  what the lines of a batch take while they run
"""
