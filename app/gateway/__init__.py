"""The gateway: one ASGI callable in front of the servers, the same on Modal and on one machine.

`asgi` takes a request and finds its way in the table of `routes`; `proxy` passes inference on, byte for byte; `waking`
holds callers through a cold start; `dialects` knows how Ollama, OpenAI and Anthropic say errors and ends; `record` has
one record of each request; `compose` puts the parts together. The rest answers without a GPU.
"""
