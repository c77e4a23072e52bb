"""What the host is told by its environment: in Ollama's words, so that a tier is tuned alike whichever engine it has.

https://docs.ollama.com/faq and ollama envconfig/config.go. What is no number there, Ollama passes over as well.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from jobs.models.placement import CACHE_BYTES
from jobs.ollama.host import OllamaHost

KEEP_ALIVE_SECONDS = 300.0
CONTEXT = 4_096
"""Ollama's own choice where there is no GPU of 23 GB (server/routes.go)."""

MOST_LOADED = 3
"""Ollama's own choice for each GPU, and for a machine without one (server/sched.go)."""

LOAD_TIMEOUT_SECONDS = 300.0
"""So long an engine may say nothing while it loads."""

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


@dataclass(frozen=True)
class HostSettings:
    """How models are loaded.

    Args:
        host: where to listen.
        models: the models directory.
        context: tokens of a context, for a model that names none itself.
        parallel: requests that a model answers at once, each with a context of its own.
        most_loaded: models in memory at once.
        keep_alive_seconds: so long an idle model stays; infinite for ever.
        load_timeout_seconds: so long an engine may be silent while it loads.
        cache_type: how the context cache is packed.
        flash_attention: whether it is used; None leaves that to the engine.

    """

    host: OllamaHost
    models: Path
    context: int = CONTEXT
    parallel: int = 1
    most_loaded: int = MOST_LOADED
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    load_timeout_seconds: float = LOAD_TIMEOUT_SECONDS
    cache_type: str = "f16"
    flash_attention: bool | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self:
        """As an environment says it."""

        def number(name: str, default: int) -> int:
            text = environ.get(name, "").strip()
            return int(text) if text.isdecimal() and int(text) else default

        cache, flash = (
            environ.get("OLLAMA_KV_CACHE_TYPE", "").strip(),
            environ.get("OLLAMA_FLASH_ATTENTION", "").strip(),
        )
        models = environ.get("OLLAMA_MODELS") or Path(environ.get("HOME") or Path.home()) / ".ollama" / "models"
        keep_alive = keep_alive_seconds(environ.get("OLLAMA_KEEP_ALIVE", "").strip())
        patience = keep_alive_seconds(environ.get("OLLAMA_LOAD_TIMEOUT", "").strip())
        return cls(
            host=OllamaHost.parse(environ.get("OLLAMA_HOST", "")),
            models=Path(models),
            context=number("OLLAMA_CONTEXT_LENGTH", CONTEXT),
            parallel=number("OLLAMA_NUM_PARALLEL", 1),
            most_loaded=number("OLLAMA_MAX_LOADED_MODELS", MOST_LOADED),
            keep_alive_seconds=KEEP_ALIVE_SECONDS if keep_alive is None else keep_alive,
            load_timeout_seconds=patience or LOAD_TIMEOUT_SECONDS,  # of 0 as well, which Ollama takes for ever
            cache_type=cache if cache in CACHE_BYTES else "f16",
            flash_attention={"1": True, "true": True, "0": False, "false": False}.get(flash.lower()),
        )


def keep_alive_seconds(value: Any) -> float | None:
    """`keep_alive` in seconds: a number of them, or a text like `5m`; negative is for ever; None for what says nothing.

    A text without a unit is seconds, as in Ollama's environment.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return math.inf if value < 0 or math.isnan(value) else float(value)
    text = str(value).strip()
    body = text.removeprefix("-").removeprefix("+")
    if re.fullmatch(r"\d+(\.\d+)?", body):
        seconds = float(body)
    elif body and "".join(match[0] for match in _PART.finditer(body)) == body:
        seconds = sum(float(match[1]) * _SECONDS[match[2]] for match in _PART.finditer(body))
    else:
        return None
    return math.inf if text.startswith("-") and seconds else seconds
