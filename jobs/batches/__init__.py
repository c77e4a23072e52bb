"""Batches: many lines of one file, answered once each. What is written down of them, where they lie, what they take.

batch_document  a batch as one document, for the command line, the ops API and the page
batch_store     posts, finds, lists and cancels batches, by what is written down of them
csv_lines       lines of a batch from the rows of a CSV file
deadlines       until when a batch has to be done, as people say it
estimate        what a batch will take, and what it may cost
limits          what is declared of batches: when they begin, and how much of them there may be
measuring       what the lines of a batch take while they run
passes          what lines of a batch show the gateway in place of a key, and how it answers them
records         what is written down of a file and of a batch
speed           what finished batches measured, and what follows from it
start_rules     when a batch begins: at once, when a GPU is awake anyway, in a window, in time for its deadline
woken_tiers     what the servers of a tier are told that a batch has woken, so that they leave when it is over
"""
