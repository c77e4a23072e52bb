"""A model registry over real sockets, with faults that can be switched on.

__main__  `python -m jobs.testing.registry`: a registry of made-up models, until a signal ends it
faults    what the registry double can be told to do wrong, and how fast it may answer
server    a model registry over real sockets, for tests, benchmarks and the demo: `python -m jobs.testing.registry
          --port 0`
"""
