"""What answers requests on a tier: each engine is a value, and nothing else tells them apart.

answer_tokens  how many tokens an answer cost, as each engine counts them: pure
clients        who asks the servers of each engine for work, on our own behalf
document       the table of routes and engines, as it stands in app/README.md
engine         what an engine is
llama_server   llama.cpp's own server, which our host process starts for each model
ollama         Ollama
table          the engines, by their names; and which of them speak a route
"""
