"""How a server comes to answer: which model it takes into memory first, and what it tells of its start meanwhile.

asked_ahead    asks the ledger what a start has to know, from the first lines of a container on
blob_readers   has the blobs of the model that is loaded read ahead of the engine
bytes_read     how many bytes the processes of a server have taken in so far, where the kernel tells
death_signal   has a process end when the one that started it does
engine         starts the engine, at the first line of a container
memory_limit   how much memory this container may use
phases         how far one start, or one load, has come
read_ahead     parallel readers that bring files into the page cache
start_reports  has what starts and loads in one server written down, few times and off their way
wanted         which models callers of a tier that sleeps wait for
"""
