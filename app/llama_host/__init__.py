"""llama.cpp as a server of many models: a process that starts one engine process for each model it is asked for.

It listens on loopback, speaks what llama.cpp's own server speaks, and tells what is loaded as Ollama does. Models come
from a models directory as Ollama lays it out. Nothing is translated: requests and answers pass as they are.

__main__        `python -m app.llama_host`: runs it until it is told to stop
chat_templates  the chat template for weights that have none of their own, by Ollama's template in Go
conversations   the system prompt and first messages that a model's layers hold, put before a conversation
gpu_libraries   where the program of Ollama's image finds its libraries and the GPU's backend
engines         the models in memory: started on demand, kept for a while, unloaded for others, started again
host            what it answers, as an ASGI application
launch          with which arguments the engine is started for a model
llama_server    `python -m app.llama_host.llama_server`: llama.cpp's server from the wheel, by llama-server's arguments
models          the models of a directory as an engine needs them, read anew when they change
process         one engine process: started, watched, ended; dies with us
settings        what it is told by its environment, in Ollama's words
"""
