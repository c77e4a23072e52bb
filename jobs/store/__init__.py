"""Where facts and queued ids are kept: the shapes of a dict and a queue, SQLite, the archive, private files.

files          what is asked of files and folders: that a rename lasts, and the system's refusals in our words
jsonl_archive  what has left the ledger: files of JSON lines that only grow, rotated by size
keys           every key of the dict, once: who writes it, what it says, how long it lives
outage         something of ours that is away: said once as it goes and once when it is back
patient_calls  asks the ledger's dict and queue once more when they fail for a moment, and counts how long they take
private_files  files and folders that are their owner's alone
protocols      the shapes of modal.Queue and modal.Dict that we use, with their contracts
sqlite         both shapes on one SQLite file, and what SQLite's errors mean
sqlite_reader  reads the dict of such a file, and changes no byte of it
"""
