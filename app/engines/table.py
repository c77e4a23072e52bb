"""The engines, by their names; and which of them speak a route."""

from app.engines.engine import Engine, EngineName
from app.engines.llama_server import LLAMA_SERVER
from app.engines.ollama import OLLAMA

ENGINES: dict[EngineName, Engine] = {engine.name: engine for engine in (OLLAMA, LLAMA_SERVER)}


def speaking(path: str) -> tuple[Engine, ...]:
    """Those that speak a route."""
    return tuple(engine for engine in ENGINES.values() if engine.speaks(path))
