"""What each kind of job does, a file a kind. Each task may be killed at any instruction, and simply runs again.

batch          have each line of a file answered once, and put the answers together
context        what tasks work with: the clock, the registries, the models directory, the servers
delete         remove a model: its manifest first, then the blobs that nobody else references
prune          delete from the trash what is due, then move to it what retention wants to go
prune_batches  remove the files of batches, and the batches, that are no longer kept
pull           bring a model, whole or not at all, by our own puller or through an Ollama server
rollback       publish the version of a model that was there before, from the trash
table          which task does the jobs of each kind
verify         hash what is published, and fetch what is damaged again, alone
warm           load a model, ask for one token, and tell how long it took and where it runs
"""
