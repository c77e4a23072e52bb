"""Doubles that are shipped beside the real thing: a registry, an Ollama, a clock, made-up models, toy weights.

clock        a clock moved by hand
fault_list   the faults of a double that are on, each with the requests it has met
gguf         writes the headers of GGUF files, for the doubles' models and for tests
http_server  what the HTTP servers of both doubles share: threads that are joined, connections that can be cut
models       small deterministic models for the doubles: the registry's stock and what the Ollama simulator knows
toy_models   models of toy weights, as a registry has them: real ones to every engine
toy_weights  weights of some tens of kilobytes that llama.cpp runs: one says a fixed text, one embeds, one ranks
"""
