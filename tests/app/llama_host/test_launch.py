"""With which arguments the engine is started: from a model's layers, as Ollama would use them."""

import io
from pathlib import Path
from typing import Any

import pytest

from app.llama_host import chat_templates, gpu_libraries
from app.llama_host.launch import kind_of, launch_of
from app.llama_host.llama_server import WITH_VALUE, WITHOUT_VALUE, apply
from app.llama_host.settings import HostSettings, keep_alive_seconds
from jobs.models import gguf
from jobs.models.card import Card
from jobs.models.gguf import GgufHeader
from jobs.testing import toy_weights
from tests.support.llama_hosts import needs_engine

SETTINGS = HostSettings.of({"OLLAMA_MODELS": "/models"})


def header_of(weights: bytes) -> GgufHeader:
    return gguf.parse(io.BytesIO(weights), len(weights))


def card(weights: bytes | None = None, **more: Any) -> Card:
    return Card({}, header_of(weights or toy_weights.speaker()), "/blobs/sha256-abc", **more)


def arguments(of: Card, settings: HostSettings = SETTINGS, **more: Any) -> dict[str, list[str]]:
    """Values by argument."""
    words = launch_of(of, settings, alias="toy:latest", **more).arguments
    found: dict[str, list[str]] = {}
    for at, word in enumerate(words):
        if word in WITH_VALUE:
            found.setdefault(word, []).append(words[at + 1])
        elif word in WITHOUT_VALUE:
            found[word] = []
    return found


def test_weights_tell_what_they_do() -> None:
    """A pooling makes an embedder, a verdict a ranker; anything else generates."""
    assert kind_of(header_of(toy_weights.speaker())) == "generate"
    assert kind_of(header_of(toy_weights.embedder())) == "embed"
    assert kind_of(header_of(toy_weights.reranker())) == "rank"
    assert kind_of(None) == "generate"


def test_each_kind_has_its_mode() -> None:
    """An embedder reads a context at once, and so does a ranker; a conversation goes on when its context is full."""
    assert "--context-shift" in arguments(card())
    embeds, ranks = arguments(card(toy_weights.embedder())), arguments(card(toy_weights.reranker()))
    assert ("--embedding" in embeds, embeds["--ubatch-size"], embeds["--ctx-size"]) == (True, ["512"], ["512"])
    assert ("--reranking" in ranks, ranks["--batch-size"]) == (True, ["512"])


def test_the_models_own_parameters_count() -> None:
    """What its layers say becomes the default of each request; of another type, it counts for nothing."""
    options = {
        "temperature": 0.3, "top_k": 7, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.9, "repeat_penalty": 1.2,
        "repeat_last_n": 32, "presence_penalty": 0.1, "frequency_penalty": 0.2, "seed": -1, "num_predict": 99,
        "num_keep": 5, "num_gpu": 3, "num_thread": 2, "num_batch": 64, "use_mmap": False, "stop": ["<end>", "", "-x"],
        "unknown": 1,
    }  # fmt: skip
    said = arguments(card(options=options))
    assert {key: said[key] for key in ("--temp", "--top-k", "--seed", "--predict", "--keep", "--threads")} == {
        "--temp": ["0.3"], "--top-k": ["7"], "--seed": ["-1"], "--predict": ["99"], "--keep": ["5"], "--threads": ["2"],
    }  # fmt: skip
    assert said["--reverse-prompt"] == ["<end>", "-x"]
    assert said["--load-mode"] == ["none"]
    wrong = arguments(card(options={"temperature": "hot", "top_k": True, "stop": 7, "num_ctx": "many"}))
    assert not {"--temp", "--top-k", "--reverse-prompt"} & wrong.keys()


def test_the_context_is_the_models_own_else_the_tiers() -> None:
    """No longer than it was trained for, and as long for each request that is answered at once."""
    tier = HostSettings.of({"OLLAMA_CONTEXT_LENGTH": "1024", "OLLAMA_NUM_PARALLEL": "4"})
    assert arguments(card())["--ctx-size"] == ["2048"]  # of the 4,096 by default, what it was trained for
    assert (arguments(card(), tier)["--ctx-size"], arguments(card(), tier)["--parallel"]) == (["4096"], ["4"])
    own = card(options={"num_ctx": 512})
    assert arguments(own, tier)["--ctx-size"] == ["2048"]
    assert arguments(own, options={"num_ctx": 256})["--ctx-size"] == ["256"]


def test_adapters_and_a_projector_go_along() -> None:
    """Each adapter is laid over the weights; one projector is all that an engine takes."""
    said = arguments(card(), projectors=("/blobs/eye",), adapters=("/blobs/a", "/blobs/b"))
    assert (said["--mmproj"], said["--lora"]) == (["/blobs/eye"], ["/blobs/a", "/blobs/b"])


def test_settings_are_ollamas_variables() -> None:
    """Numbers, durations and switches are read as Ollama reads them; what makes no sense is passed over."""
    told = HostSettings.of(
        {
            "OLLAMA_HOST": "127.0.0.1:9999",
            "OLLAMA_MODELS": "/m",
            "OLLAMA_KEEP_ALIVE": "-1",
            "OLLAMA_MAX_LOADED_MODELS": "5",
            "OLLAMA_LOAD_TIMEOUT": "90s",
            "OLLAMA_KV_CACHE_TYPE": "q8_0",
            "OLLAMA_FLASH_ATTENTION": "1",
            "OLLAMA_NUM_PARALLEL": "many",
        }
    )
    assert (told.host.port, told.models, told.keep_alive_seconds) == (9999, Path("/m"), float("inf"))
    assert (told.most_loaded, told.load_timeout_seconds, told.parallel) == (5, 90.0, 1)
    said = arguments(card(), told)
    assert (said["--cache-type-k"], said["--cache-type-v"], said["--flash-attn"]) == (["q8_0"], ["q8_0"], ["on"])


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (300, 300.0), ("5m", 300.0), ("1h30m", 5400.0), ("1.5s", 1.5), (0, 0.0), ("0", 0.0), ("90", 90.0),
        (-1, float("inf")), ("-1s", float("inf")), (float("nan"), float("inf")),
        (None, None), (True, None), ("soon", None), ("", None), ([], None),
    ],
)  # fmt: skip
def test_keep_alive_is_read_as_ollama_reads_it(value: Any, seconds: float | None) -> None:
    """Seconds, or a duration as Go writes it; negative is for ever, and what makes no sense says nothing."""
    assert keep_alive_seconds(value) == seconds


def test_weights_with_a_template_keep_it() -> None:
    """The template of the weights counts; without one, that of a known form in Go stands in, and else it is told."""
    assert chat_templates.for_weights("{{ jinja }}", "{{ .Prompt }}") == (None, None)
    assert chat_templates.for_weights("", None) == (None, None)
    template, note = chat_templates.for_weights(
        "", "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert template is not None
    assert "<|im_start|>" in template
    assert note is None
    template, note = chat_templates.for_weights("", "Q: {{ .Prompt }}\nA:")
    assert (template, note and "ChatML" in note) == (None, True)


@needs_engine
def test_the_wheel_takes_every_argument() -> None:
    """Whatever a launch says, the engine's parameters have it; what is unknown or wrong is refused."""
    import xllamacpp  # noqa: PLC0415 - not here where there is no wheel

    options = {"temperature": 0.25, "seed": -1, "num_predict": 9, "stop": ["<end>"], "use_mmap": False, "num_gpu": 0}
    settings = HostSettings.of({"OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_FLASH_ATTENTION": "1"})
    launch = launch_of(card(options=options), settings, alias="toy:latest", adapters=("/a",), projectors=("/p",))
    params = xllamacpp.CommonParams()
    apply(params, ["--port", "1234", "--host", "127.0.0.1", *launch.arguments])
    assert (params.port, params.n_ctx, params.n_predict, params.n_gpu_layers) == (1234, 2048, 9, 0)
    assert (params.sampling.temp, params.sampling.seed) == (0.25, 2**32 - 1)
    assert (list(params.antiprompt), params.model.path, params.mmproj.path) == (["<end>"], "/blobs/sha256-abc", "/p")
    assert (params.model_alias, [each.path for each in params.lora_adapters]) == ({"toy:latest"}, ["/a"])
    for weights in (toy_weights.embedder(), toy_weights.reranker()):
        params = xllamacpp.CommonParams()
        apply(params, launch_of(card(weights), SETTINGS, alias="x").arguments)
        assert params.embedding
    for wrong in (["--port", "x"], ["--nothing"], ["--port"], ["--flash-attn", "maybe"]):
        with pytest.raises(ValueError, match="--"):
            apply(xllamacpp.CommonParams(), wrong)


def test_libraries_are_found_beside_the_program(tmp_path: Path) -> None:
    """The newest CUDA that the driver has, with its backend; without a driver, the program's own folder alone."""
    for version in (12, 13):
        folder = tmp_path / f"cuda_v{version}"
        folder.mkdir()
        (folder / "libggml-cuda.so").touch()
    binary = tmp_path / "llama-server"
    told = gpu_libraries.libraries_of(binary, {"LD_LIBRARY_PATH": "/more"}, driver=12)
    assert told["LD_LIBRARY_PATH"] == f"{tmp_path}:{tmp_path}/cuda_v12:/more"
    assert told["GGML_BACKEND_PATH"] == str(tmp_path / "cuda_v12" / "libggml-cuda.so")
    assert gpu_libraries.libraries_of(binary, {}, driver=14)["LD_LIBRARY_PATH"].endswith("cuda_v13")
    assert gpu_libraries.libraries_of(binary, {}, driver=0) == {"LD_LIBRARY_PATH": str(tmp_path)}
