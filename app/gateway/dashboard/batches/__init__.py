"""Batches for the page and for the command line, as the ops API tells them.

batch_entries  a batch as it goes out over HTTP
batch_list     list batches, tell of one, end one: an administrator sees all, others their own
estimates      tell what a batch would take, by counts of its lines
"""
