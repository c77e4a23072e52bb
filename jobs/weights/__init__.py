"""The models directory: what lies in it, and how it is changed so that every reader sees whole models.

checksum     are the bytes of these blobs what their digests say? Several at once, because hashing leaves the
             interpreter alone
directory    the models directory
history      what a prune and a night have to remember: uses, pulls, verifications, rollbacks
layout       where things stand in a models directory, as Ollama lays it out, and the few file operations all of it
             shares
manifest     what a model is made of: its manifest, read strictly, and the few facts its config blob tells
prune_plan   what a prune is to do, and why: pure
staging      where a pull gathers its bytes until they are published: one folder per subject and holder
survey       what is really in a models directory: whole models, broken ones, and everything else that takes room
trash        the trash of a models directory: what was taken away, until its grace is over
trash_moves  what goes to the trash, comes back from it, and leaves it for good
"""
