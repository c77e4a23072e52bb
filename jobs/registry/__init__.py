"""The client of model registries: sessions, manifests, and blobs in resumable, verified ranges.

allowlist       which registries may be pulled from
answers         what a registry answers, read within bounds
bulk_transport  HTTP/1.1 for blobs: a transport for `httpx.Client` that spends little on each byte
client          every model registry, for the rest of the code: a name's manifest, and its blobs brought to disk
download        bring blobs to disk in ranges over several connections, hashed as they land, resumable after any kind
                of death
egress          where a registry may send us: to itself, to what is listed, to the public Internet
mirror          what the environment says: one registry in place of all others, a token for Hugging Face
range_journal   which parts of a half-fetched blob are on disk: a text file beside it that only grows
range_queue     what a download has still to do, shared by all of its threads under one lock
servable        whether Ollama could serve what a registry hands out, told before its weights are fetched
session         the registry protocol: one session with one registry about one repository
shared_rate     a rate in bytes per second that several threads share
"""
