"""Batches for the page and for the command line, as the ops API tells them.

estimates  tell what a batch would take, by counts of its lines
"""
