"""What an engine is: a program that has models in memory and answers requests, as a value.

Whoever starts, asks, watches or passes on to a server goes by the value of its tier, and never by the engine's name.
The values are in `ollama.py` and `llama_server.py`.

What is the same for all engines is how we ourselves speak to them, beside their callers: `/api/version` answers when
the engine does, `/api/ps` tells what is loaded, `/api/generate` with a model and no prompt loads it, and with a
`keep_alive` of 0 unloads it, each in Ollama's shapes. What is no Ollama gets these four from a host process of ours.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from app.engines.answer_tokens import Tokens

EngineName = Literal["ollama", "llama-server"]

ANSWERS_AT = "/api/version"
"""Answers as soon as the engine takes requests, with its version."""

LOADED_AT = "/api/ps"
"""Tells what is in memory, as Ollama does."""

LOADS_AT = "/api/generate"
"""With a model and no prompt it loads that, and answers when it is in memory."""


@dataclass(frozen=True)
class LogWords:
    """What an engine's own lines tell, by which its server follows it.

    Args:
        answered: a request for inference of others, or of ours, has ended.
        load_began: a load, with the groups `command` and `blob`, the file name of the weights.
        bytes_read: all tensors of that load are there.
        load_ended: the model is in memory.
        kept_off_the_gpu: in the command of a load: no layer goes to the GPU, because somebody asked for that.

    """

    answered: re.Pattern[str]
    load_began: re.Pattern[str]
    bytes_read: re.Pattern[str]
    load_ended: re.Pattern[str]
    kept_off_the_gpu: re.Pattern[str]


@dataclass(frozen=True)
class Engine:
    """A kind of server program.

    Args:
        name: as a fleet file says it.
        title: as its makers write it.
        command: starts it in its image. It is told all else by its environment, in the variables of `ollama serve`
            (OLLAMA_HOST, OLLAMA_MODELS and those of a tier's settings), whatever it is.
        routes: the paths that it speaks, of those in `app.gateway.protocol.routes` that are passed on.
        instead: for some of those that it does not speak, what a caller may do.
        refuses_as_ollama: what Ollama refuses of a body, it refuses as well, in the same words.
        errors_in: the dialect of its errors on every route; None where each route has them in its own.
        cuts_prompts: it shortens a prompt that does not fit, without a word; else it refuses that.
        loads_by_request: what a request says of context and GPU decides how its model is loaded.
        tells_usage: each stream ends with the count of its tokens; else only one that asks for it.
        long_end: what ends the last event of a stream that is longer than what is kept of it.
        tokens: the count, from the first and the last bytes of an answer.
        not_yet: statuses that mean that the server or the model will be there in a moment.
        no_model: the status of a model that it does not know, or does not yet.
        log: what its lines tell.
        code: the folder of our own code, where some of it starts the engine; it is not started there.

    """

    name: EngineName
    title: str
    command: tuple[str, ...]
    routes: frozenset[str]
    refuses_as_ollama: bool
    errors_in: Literal["openai"] | None
    cuts_prompts: bool
    loads_by_request: bool
    tells_usage: bool
    long_end: re.Pattern[bytes]
    tokens: Callable[[bytes, bytes], Tokens]
    log: LogWords
    instead: Mapping[str, str]
    code: str = ""
    not_yet: frozenset[int] = frozenset({503})
    no_model: int = 404

    def speaks(self, path: str) -> bool:
        return path in self.routes

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Engine({self.name!r})"
