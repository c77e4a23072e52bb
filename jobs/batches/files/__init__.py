"""Where the files of batches lie, and what becomes of those that nobody keeps.

batch_disk    the disk they lie on: its refusals in our words, its quota, what containers share of it
file_writer   one file as it comes in, piece by piece: whole in the end, or gone
files_due     when they are to be looked through again: what a night goes by
prune_plan    what is removed, and when: pure
refresh_lock  many may use files at once, and one may refresh while nobody does
storage       files, and the folder of each batch that is at work
"""
