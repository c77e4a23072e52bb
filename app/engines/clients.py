"""Who asks the servers of each engine for work, on our own behalf."""

from collections.abc import Mapping

from app.engines.engine import Engine
from app.engines.llama_server import LLAMA_SERVER
from app.engines.ollama import OLLAMA
from jobs.ollama.client import OllamaClient
from jobs.ollama.llama_server import LlamaServerClient

CLIENTS: Mapping[Engine, type[OllamaClient]] = {OLLAMA: OllamaClient, LLAMA_SERVER: LlamaServerClient}
