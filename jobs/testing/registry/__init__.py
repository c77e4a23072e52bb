"""A model registry over real sockets, with faults that can be switched on.

__main__  `python -m jobs.testing.registry`: a registry of made-up models, until a signal ends it
faults    what the registry double can be told to do wrong
http      the registry double's HTTP: finds the route, lets faults strike, sends bodies as the faults leave them
server    a model registry over real sockets, for tests, benchmarks and the demo
stock     what the registry double holds, signs and counts; nothing of it knows HTTP
"""
