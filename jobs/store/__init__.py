"""Where facts and queued ids are kept: the shapes of a dict and a queue, SQLite, private files.

by_sort        one dict of several: each sort of entries in one of its own, on a platform that lists a dict only whole
files          what is asked of files and folders: that a rename lasts, whether anybody wrote, the system's refusals
in_order       entries by their time and requests by their posting, which one machine's file finds
keys           every key of the dict, once: who writes it, what it says, how long it lives
listed         a dict that lists some sorts of entries once, for whoever asks for many of them in one breath
outage         something of ours that is away: said once as it goes and once when it is back
patient_calls  asks the ledger's dict and queue once more when they fail for a moment, and counts how long they take
prefixes       which keys begin as asked
private_files  files and folders that are their owner's alone
protocols      the shapes of modal.Queue and modal.Dict that we use, with their contracts
sqlite         both shapes on one SQLite file, and what SQLite's errors mean
sqlite_reader  reads the dict of such a file, and changes no byte of it
"""
