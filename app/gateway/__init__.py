"""The front door: one process, one ASGI callable, for clients of Ollama, OpenAI and Anthropic.

Inference takes a thin path written by hand, because there every chunk costs; what is asked about jobs and how things
stand goes through FastAPI, because there a typed document is worth more. It infers nothing and keeps no weights.
"""
