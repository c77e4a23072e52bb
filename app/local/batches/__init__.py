"""The process that works on the batches of this machine. `up` starts it (`app.local.processes.batch_worker`).

__main__        `python -m app.local.batches`
worker_context  what it works with, by what `up` has written down of itself
worker_process  works on batches until there is none, or somebody asks it to stop
"""
