"""Ollama, as version 0.32 is; its sources are named beside what was read there."""

import re

from app.engines.answer_tokens import as_ollama_counts
from app.engines.engine import Engine, LogWords

COUNTS = (
    "only a server with the model in memory counts tokens; ask it for one token (`max_tokens` or `num_predict` of 1),"
    " and its answer tells how many the prompt has"
)
"""What may be done where nobody counts them beforehand."""

OLLAMA = Engine(
    name="ollama",
    title="Ollama",
    command=("ollama", "serve"),
    routes=frozenset(
        {
            "/api/show",
            "/api/generate",
            "/api/chat",
            "/api/embed",
            "/api/embeddings",
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
            "/v1/responses",
            "/v1/audio/transcriptions",
            "/v1/messages",
        }
    ),
    instead={"/v1/messages/count_tokens": COUNTS, "/tokenize": COUNTS},
    refuses_as_ollama=True,
    errors_in=None,
    cuts_prompts=True,
    loads_by_request=True,
    tells_usage=False,
    long_end=re.compile(rb'"type":"response\.completed"\}\s*\Z'),
    tokens=as_ollama_counts,
    log=LogWords(
        answered=re.compile(r'^\[GIN\].*\bPOST +"/(?:api/(?:chat|generate|embed|embeddings)|v1/[^"]*)"'),
        # Which blob, and with what (llm/llama_server.go:431).
        load_began=re.compile(
            r'msg="starting llama-server" cmd="'
            r'(?P<command>[^"]*--model (?:(?! --)[^"])*?(?P<blob>sha256-[0-9a-f]{64})\b[^"]*)"'
        ),
        # What the engine below says first when all tensors are there (llama.cpp src/llama-context.cpp,
        # common/common.cpp). A version that says neither leaves unknown when that was.
        bytes_read=re.compile(r"\bllama_context: constructing|\bllama threadpool init"),
        load_ended=re.compile(r'msg="llama-server started in '),
        # What becomes of `num_gpu: 0`, whether a request said it or the model's own parameters.
        kept_off_the_gpu=re.compile(r" (?:-ngl|--gpu-layers|--n-gpu-layers) 0(?: |$)"),
    ),
)
