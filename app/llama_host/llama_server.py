"""llama.cpp's server from the wheel `xllamacpp`, by the arguments of its program `llama-server`.

    python -m app.llama_host.llama_server --model FILE --port PORT ...

So one command line starts either. The arguments that `app.llama_host.launch` writes are known here, and no others. It
ends with whoever started it: on Linux by a signal, elsewhere when the pipe on its stdin closes.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

USAGE = 2

_LOG_SECONDS = 1.0
"""For what llama.cpp has said last: a thread of its own writes that, and nobody can ask whether it has."""


def _set(path: str, read: Callable[[str], Any]) -> Callable[[Any, str], None]:
    """An argument that becomes one value of the engine's parameters."""
    *above, last = path.split(".")

    def apply(params: Any, text: str) -> None:
        for name in above:
            params = getattr(params, name)
        setattr(params, last, read(text))

    return apply


def _alias(params: Any, text: str) -> None:
    params.model_alias = {text}


def _stop(params: Any, text: str) -> None:
    params.antiprompt = [*params.antiprompt, text]


def _adapter(params: Any, text: str) -> None:
    import xllamacpp  # noqa: PLC0415 - as below

    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = text, 1.0
    params.lora_adapters = [*params.lora_adapters, adapter]


def _member(enum: str, prefix: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        import xllamacpp  # noqa: PLC0415 - as below

        return getattr(getattr(xllamacpp, enum), prefix + text.upper())

    return read


_cache_kind = _member("ggml_type", "GGML_TYPE_")

_flash = _member("llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_")
_FLASH = {"on": lambda: _flash("enabled"), "off": lambda: _flash("disabled"), "auto": lambda: _flash("auto")}

_load_mode = _member("llama_load_mode", "LLAMA_LOAD_MODE_")
_LOAD_MODES = {
    "mmap": lambda: _load_mode("mmap"),
    "none": lambda: _load_mode("none"),
    "dio": lambda: _load_mode("direct_io"),
}

WITH_VALUE: Mapping[str, Callable[[Any, str], None]] = {
    "--model": _set("model.path", str),
    "--host": lambda params, text: setattr(params, "hostnames", [text]),
    "--port": _set("port", int),
    "--alias": _alias,
    "--mmproj": _set("mmproj.path", str),
    "--lora": _adapter,
    "--ctx-size": _set("n_ctx", int),
    "--parallel": _set("n_parallel", int),
    "--batch-size": _set("n_batch", int),
    "--ubatch-size": _set("n_ubatch", int),
    "--keep": _set("n_keep", int),
    "--gpu-layers": _set("n_gpu_layers", int),
    "--threads": _set("cpuparams.n_threads", int),
    "--chat-template": _set("chat_template", str),
    "--reverse-prompt": _stop,
    "--cache-type-k": _set("cache_type_k", _cache_kind),
    "--cache-type-v": _set("cache_type_v", _cache_kind),
    "--flash-attn": _set("flash_attn_type", lambda text: _FLASH[text]()),
    "--load-mode": _set("load_mode", lambda text: _LOAD_MODES[text]()),
    "--temp": _set("sampling.temp", float),
    "--top-k": _set("sampling.top_k", int),
    "--top-p": _set("sampling.top_p", float),
    "--min-p": _set("sampling.min_p", float),
    "--typical": _set("sampling.typ_p", float),
    "--repeat-penalty": _set("sampling.penalty_repeat", float),
    "--repeat-last-n": _set("sampling.penalty_last_n", int),
    "--presence-penalty": _set("sampling.penalty_present", float),
    "--frequency-penalty": _set("sampling.penalty_freq", float),
    "--seed": _set("sampling.seed", lambda text: int(text) % 2**32),
    "--predict": _set("n_predict", int),
}


def _rank(params: Any) -> None:
    params.embedding = True
    params.pooling_type = _member("llama_pooling_type", "LLAMA_POOLING_TYPE_")("rank")


WITHOUT_VALUE: Mapping[str, Callable[[Any], None]] = {
    "--embedding": lambda params: setattr(params, "embedding", True),
    "--reranking": _rank,
    "--context-shift": lambda params: setattr(params, "ctx_shift", True),
    "--offline": lambda params: setattr(params, "offline", True),
    "--no-webui": lambda params: setattr(params, "ui", False),
    "--no-escape": lambda params: setattr(params, "escape", False),
}


def apply(params: Any, arguments: Sequence[str]) -> None:
    """Set what the arguments say.

    Raises:
        ValueError: one is not known here, or makes no sense.

    """
    left = list(arguments)
    while left:
        name = left.pop(0)
        if name in WITHOUT_VALUE:
            WITHOUT_VALUE[name](params)
        elif name in WITH_VALUE and left:
            text = left.pop(0)
            try:
                WITH_VALUE[name](params, text)
            except (ValueError, KeyError, AttributeError, OverflowError) as error:
                raise ValueError(f"{name} {text!r} makes no sense: {error}") from error
        else:
            raise ValueError(f"{name!r} is no argument of this server, or lacks its value")


def _end_with_parent() -> None:
    """End when the pipe on stdin does, which whoever started us holds open."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def main(arguments: Sequence[str]) -> int:
    if arguments == ["--version"]:
        import xllamacpp  # noqa: PLC0415 - a hundred megabytes, which a wrong argument does not need

        print(xllamacpp.__version__)
        return 0
    import xllamacpp  # noqa: PLC0415 - as above

    params = xllamacpp.CommonParams()
    params.warmup = False
    if key := os.environ.get("LLAMA_API_KEY"):
        params.api_keys = [key]
    if mode := os.environ.get("LLAMA_ARG_LOAD_MODE"):
        params.load_mode = _LOAD_MODES[mode]()
    try:
        apply(params, arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        time.sleep(_LOG_SECONDS)
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # threads of the engine may still run, and would keep us
    print(f"listening at {server.listening_address}", flush=True)
    signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
