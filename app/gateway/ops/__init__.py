"""The typed API about jobs, models and health.

app          the FastAPI application: `/ops/v1`, probes, meters, and the jobs among Ollama's routes
auth         lets callers of the ops API in, or not at all
context      what the ops API works with
follow_jobs  the followers of jobs, each of whom holds a connection
job_events   a job's life as server-sent events, which a client can resume
job_lists    lists of jobs, and of what failed, as one caller is told them
jobs         jobs over HTTP: post, list, tell, follow, cancel, retry, dismiss
ledger_pool  the few threads that ask the ledger for the event loop
ollama_jobs  Ollama's pull and delete, as jobs
post_jobs    posts jobs for callers: who may, in whose name, and who is sent to work on them
schemas      the bodies of the ops API, typed, for its document and for what comes in
state        models, tiers, routes, usage, health; and the probes of monitoring
"""
