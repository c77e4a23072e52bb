"""What a job is and how it gets done. Has never heard of Modal.

Everything a job needs from outside (a queue, a dict, a registry, an Ollama server, a clock) is handed in, so the same
code runs on one machine and on a platform. Import files by name, as `from jobs.ledger.ledger import Ledger`; this file
imports nothing.

__main__  `python -m jobs`: the command line without `up`
version   the version, its one home
"""
