"""Doubles shipped beside the real thing: an Ollama simulator, a model registry, a clock moved by hand.

They serve the tests, the demo and `up --simulate`. They never pretend to be inference: every reply says so.
"""
