"""Doubles that are shipped beside the real thing: a registry, an Ollama, a clock, made-up models.

clock   a clock moved by hand
gguf    writes the headers of GGUF files, for the doubles' models and for tests
models  small deterministic models for the doubles: the registry's stock and what the Ollama simulator knows
"""
