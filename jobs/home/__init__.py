"""One machine's home directory: its ledger, its locks, how it stands; and the client of a gateway, here or elsewhere.

gateway_client  the jobs of a gateway anywhere, over HTTP: what it offers is what a ledger of this machine offers
home            the local home: where the one-machine stack keeps its ledger, what it last composed, and who is
                running it
local_batches   the batches of this machine: in its ledger, their files in its home
local_jobs      the jobs of this machine's ledger: read as they lie, and opened for writing by what writes
names_here      the names of the models on this machine, before something is posted about one that is not there
prune_preview   the upkeep of the weights on one machine: who uses them, and what a prune would do now
remote_batches  the batches of a gateway anywhere, over HTTP
remote_keys     the keys of a gateway anywhere, over HTTP
status          what is here, for the command line: the models and what is wrong with them, the servers and whether
                they answer
unreachable     what to do when a gateway's address does not lead to a gateway
"""
