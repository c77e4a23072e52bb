"""The models directory: what lies in it, and how it is changed so that every reader sees whole models.

checksum     are the bytes of these blobs what their digests say? Several at once, because hashing leaves the
             interpreter alone
directory    the models directory: reading it, the lock that keeps writers apart, and publishing
history      what a prune and a night have to remember: uses, pulls, verifications, rollbacks
layout       where things stand in a models directory, as Ollama lays it out, and the few file operations all of it
             shares
manifest     what a model is made of: its manifest, read strictly, and the few facts its config blob tells
prune_plan   what a prune is to do, and why: pure
removal      deletes a model for good: its manifest first, then the blobs that no manifest refers to
restore      what a rollback does: it publishes a model's version from the trash, and throws the one that is there
staging      where a pull gathers its bytes until they are published: one folder per subject and holder
survey       what is really in a models directory: whole models, broken ones, and everything else that takes room
trash        the trash of a models directory: what was taken away, until its grace is over
trash_moves  what goes to the trash, what leaves it for good, and what a pull takes back
"""
