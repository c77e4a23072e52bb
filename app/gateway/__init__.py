"""The front door for programs: one URL for Ollama, OpenAI and Anthropic clients, in front of servers that may sleep.

An ASGI application that runs the same under `app.deploy` and under `ollama-modal up`. What needs no GPU is answered
here, from what the servers reported and what lies on the disk; everything else is passed on byte for byte.
"""
