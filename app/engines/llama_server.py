"""llama.cpp's `llama-server`, one process for each model, started on demand by our host process `app.llama_host`.

The host listens on the tier's port, answers what `engine.py` says is the same for all engines, and passes each request
to the process of its `model`, byte for byte, at `/v1/messages` as at `/tokenize`. What is said here of routes, errors
and ends was seen of llama.cpp b10488, which Ollama's image has, and of b11549, which is the wheel `xllamacpp`.
"""

import re
import shutil
import sys
from pathlib import Path

from app.engines.answer_tokens import as_llama_server_counts
from app.engines.engine import Engine, LogWords
from app.engines.ollama import OLLAMA

BINARY = shutil.which("llama-server") or "/usr/lib/ollama/llama-server"
"""In Ollama's image it is not on PATH; what it links to is beside it, and the backends of GPUs in folders there."""

LLAMA_SERVER = Engine(
    name="llama-server",
    title="llama-server",
    command=(sys.executable, "-m", "app.llama_host", "--llama-server", BINARY),
    code=str(Path(__file__).parents[2]),
    routes=frozenset(
        {
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
            "/v1/messages",
            "/v1/messages/count_tokens",
            "/v1/responses",
            "/v1/rerank",
            "/tokenize",
        }
    ),
    instead={
        "/api/chat": "ask /v1/chat/completions",
        "/api/generate": "ask /v1/completions",
        "/api/embed": "ask /v1/embeddings",
        "/api/embeddings": "ask /v1/embeddings",
        "/api/show": "leave `verbose` out",
    },
    refuses_as_ollama=False,
    errors_in="openai",
    cuts_prompts=False,
    loads_by_request=False,
    tells_usage=True,
    # The usage of /v1/responses stands behind all text, and what was measured behind that.
    long_end=re.compile(rb'"usage":\{"input_tokens":[^}]*\}?\}[^\n]*\}\s*\Z'),
    tokens=as_llama_server_counts,
    log=LogWords(
        # The host's own lines; those in between are llama.cpp's, which Ollama shows as well.
        answered=re.compile(r"^llama-host: answered \d+ "),
        load_began=re.compile(
            r"^llama-host: loading (?P<command>.*--model (?:(?! --).)*?(?P<blob>sha256-[0-9a-f]{64})\b.*)"
        ),
        bytes_read=OLLAMA.log.bytes_read,
        load_ended=re.compile(r"^llama-host: loaded "),
        kept_off_the_gpu=OLLAMA.log.kept_off_the_gpu,
    ),
)
