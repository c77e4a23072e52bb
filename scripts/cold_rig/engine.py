"""One start of a real llama.cpp, by the wheel `xllamacpp`: prints seconds until it is ready, and to its first token.

Runs in the rig's own environment:  python engine.py FILE mmap|none|dio
The seconds count from the process's first line; what the import costs is told as well.
"""

import time

_BEGAN = time.monotonic()

import json  # noqa: E402 - the clock comes first
import sys  # noqa: E402

import xllamacpp  # noqa: E402

MODES = {"mmap": "LLAMA_LOAD_MODE_MMAP", "none": "LLAMA_LOAD_MODE_NONE", "dio": "LLAMA_LOAD_MODE_DIRECT_IO"}


def main(path: str, mode: str) -> None:
    imported = time.monotonic() - _BEGAN
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_batch, params.n_parallel = 256, 64, 1
    params.warmup = False
    params.fit_params = False
    params.verbosity = 0
    params.load_mode = getattr(xllamacpp.llama_load_mode, MODES[mode])
    server = xllamacpp.Server(params)
    ready = time.monotonic() - _BEGAN
    server.handle_completions({"prompt": "hello", "n_predict": 1})
    first_token = time.monotonic() - _BEGAN
    print(json.dumps({"imported": imported, "ready": ready, "first_token": first_token}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
