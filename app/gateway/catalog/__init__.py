"""Models and servers as they are known without asking any.

loaded_models   what the servers have in memory now: their reports, and what went through here since
made_aliases    other names for models as `ollama cp` makes them and `ollama rm` takes them away
ollama_lists    what the gateway answers by itself, in Ollama's exact shapes
prepared_lists  the lists of all models, put together once for all who see the same of them
server_reports  what the servers of a tier reported of themselves, as far as it matters to callers who wait for them
shared_answer   what many ask, asked once for all of them, and not again for a few seconds
shared_refresh  what is known, looked up at once, for all who cannot wait for the next refresh
sources         where the gateway's models come from: a directory, a volume, or the server on loopback
state           what is known, in memory: models, reports, the generation of the weights
volume          the mounted volume as the gateway reads it
"""
