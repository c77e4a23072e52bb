"""Batches at the command line: what is posted, how it goes on, and where its results go.

batch_commands  what a person does with batches, in the same words wherever they are
batch_options   what is typed of a batch beside its file
batch_source    the file of a batch: the lines that it has, or those that are made of its rows
batch_words     a batch in words: how it stands, what it took, what it will take
csv_answers     answers as the CSV file of which the lines were made
follow_batch    follows a batch to its end: a bar on a terminal, else a line per ten per cent
merged_results  results in the order of the lines
results_file    a file that is written beside its place and renamed in when it is whole
"""
