"""Shows the main job on this machine: the stack comes up, a model is pulled through the queue, warmed, and asked.

Every line that begins with `$` is a command that is really run, as anybody could type it. All of it happens in a
scratch directory that is gone afterwards. `scripts/demo` sets up what this needs and starts it. What answers is real:
an Ollama that is here (the binary on PATH, in the scratch directory; else a server that answers, which gets its model
from us), else the built-in engine. Where no registry can be reached, that engine runs toy weights; the simulator is for
machines without it, and for who asks.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from types import FrameType
from typing import Any, Literal

Kind = Literal["simulated", "started", "found", "engine", "toys"]

QUESTION = "Why does the GPU sleep while the ledger does not?"
TEXTS = ("The GPU sleeps at night.", "A panda eats bamboo in the garden.", "Each job is in the ledger.")
REGISTRY = "https://registry.ollama.ai"
MIRROR = "OLLAMA_MODAL_REGISTRY"
TIERS = ("a10g", "h100")
PATIENCE_SECONDS = 300.0
"""For whatever starts, answers or ends: a busy machine stalls for minutes, and what is broken ends by itself."""
REGISTRY_SECONDS = 5.0
SLOWLY: dict[Kind, str] = {"simulated": "7MB", "toys": "60KB"}
"""What is made up has 20 MB, and toys 0.1: so the bar can be seen."""


@dataclass(frozen=True)
class Models:
    """What is pulled: a model that chats, and where there are some, one that embeds and one that ranks."""

    chats: str
    embeds: str | None = None
    ranks: str | None = None


MODELS: dict[Kind, Models] = {
    "simulated": Models("llama3.2"),
    "started": Models("smollm2:135m"),
    "found": Models("smollm2:135m"),
    "engine": Models("smollm2:135m", embeds="all-minilm:22m"),
    "toys": Models("toy", embeds="toy-embed", ranks="toy-rerank"),
}

COMMAND = [sys.executable, "-m", "app.local"]


class Failed(Exception):
    """A step of the demo did not go as it should."""


class Interrupts:
    """Ctrl-C and a polite kill: the first one ends the demo, and nothing ends its cleaning up.

    While a process is being started it waits: else that would be nobody's, and write where everything is gone.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._wait = False
        self._came: int | None = None

    def listen(self) -> None:
        for number in self.NUMBERS:
            signal.signal(number, self._interrupt)

    def _interrupt(self, number: int, _: FrameType | None = None) -> None:
        if self._wait:
            self._came = number
            return
        for each in self.NUMBERS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(signal.Signals(number).name)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self._wait = True
        try:
            yield
        finally:
            self._wait = False
        if self._came is not None:
            self._interrupt(self._came)


class Demo:
    """The steps, in a scratch directory of their own."""

    def __init__(self, scratch: Path, kind: Kind, interrupts: Interrupts) -> None:
        self.kind = kind
        self.interrupts = interrupts
        self.wanted = MODELS[kind]
        self.home = scratch / "home"
        self.models = scratch / "models"
        #: What runs, the oldest first: a registry, `up`, a command.
        self.started: list[subprocess.Popen[str]] = []
        self.url = ""
        self._step = 0
        self._env = {**os.environ, "OLLAMA_MODAL_HOME": str(self.home)}
        self._env.pop("OLLAMA_MODELS", None)
        if kind == "toys":  # the built-in engine, whatever Ollama is here: that one need not have a runner
            self._env |= {"PATH": without_ollama(os.environ.get("PATH", "")), "OLLAMA_HOST": "127.0.0.1:9"}

    def run(self) -> None:
        model = self.wanted.chats
        if self.kind == "toys":
            self.start_registry()
        self.step("Start the stack: servers, workers, the ledger, the gateway")
        self.start_up()
        self.step(f"Pull {model} through the queue")
        limit = ["--rate-limit", SLOWLY[self.kind]] if self.kind in SLOWLY else []
        first = self.ollama_modal("pull", model, *limit, "--no-wait", captured=True).strip()
        say(f"The job {first} is in the ledger now. Asking for the same model attaches to the same job:")
        self.ollama_modal("pull", model)
        self.step("Ask for it once more: it is here, so nothing is fetched")
        self.ollama_modal("pull", model)
        if more := [name for name in (self.wanted.embeds, self.wanted.ranks) if name]:
            self.ollama_modal("pull", *more)
        self.ollama_modal("models")
        if self.kind != "found":  # else the directory is not ours to read
            self.step("Verify every byte against the digests of the manifest")
            self.ollama_modal("verify", model)
        self.step("Warm it: load it on the tier that fits its size")
        self.ollama_modal("warm", model)
        self.ollama_modal("status")
        self.step("Chat with it through the gateway, which knows the tier")
        self.chat()
        if self.wanted.embeds:
            self.step("Have texts embedded: which is nearest to the first one?")
            self.embed(self.wanted.embeds)
        if self.wanted.ranks:
            self.step("Have them ranked by a question")
            self.rank(self.wanted.ranks)
        self.step("Look back: all jobs, and the story of the pull")
        self.ollama_modal("jobs")
        self.ollama_modal("job", first)
        self.step("Stop")
        self.stop()

    def start_registry(self) -> None:
        """A registry of this machine that has the toy weights."""
        words = [sys.executable, "-m", "jobs.testing.registry", "--toys"]
        registry = self.start(words, stdout=subprocess.PIPE, process_group=0)
        if not (url := first_line(registry, PATIENCE_SECONDS)):
            raise Failed("the registry of toy weights did not start")
        self._env[MIRROR] = url

    def start(self, words: Sequence[str], **more: Any) -> "subprocess.Popen[str]":
        """A process that ends with the demo, however that ends."""
        with self.interrupts.waiting():
            self.started.append(subprocess.Popen(words, env=self._env, text=True, **more))
        return self.started[-1]

    def step(self, what: str) -> None:
        self._step += 1
        print(f"\n{self._step}. {what}", flush=True)

    def start_up(self) -> None:
        arguments = ["up", "--port", "0"]
        if self.kind in ("simulated", "started"):
            arguments += [word for tier in TIERS for word in ("--tier", tier)]
        if self.kind != "found":
            arguments += ["--models", str(self.models)]
        if self.kind == "simulated":
            arguments.append("--simulate")
        show(arguments)
        log = self.home.with_name("up.err")
        with log.open("wb") as err:
            up = self.start([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=err, process_group=0)
        line = first_line(up, PATIENCE_SECONDS)
        if not line.startswith("ready "):
            raise Failed("`up` did not become ready")
        print(line, flush=True)
        self.url = line.split()[1]

    def ollama_modal(self, *arguments: str, captured: bool = False) -> str:
        """Run a command as a person would; its stdout is answered when `captured`, else it is shown."""
        show(arguments)
        command = self.start([*COMMAND, *arguments], stdout=subprocess.PIPE if captured else None)
        said, _ = command.communicate()
        self.started.remove(command)
        if command.returncode != 0:
            raise Failed(f"`ollama-modal {shlex.join(arguments)}` exited with {command.returncode}")
        return said or ""

    def chat(self) -> None:
        model = self.wanted.chats
        body = {
            "model": model,
            "max_tokens": 80,
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": QUESTION}],
        }
        with self.asked("/v1/chat/completions", body) as answer:
            print(f"{model}, on tier {answer.headers['x-served-tier']}: ", end="", flush=True)
            count, seconds = shown_stream(answer)
        rate = f", {count / seconds:,.0f} tokens a second" if count > 1 and seconds > 0 else ""
        print(f"\n{count} tokens{rate}", flush=True)

    def embed(self, model: str) -> None:
        with self.asked("/v1/embeddings", {"model": model, "input": [TEXTS[0], *TEXTS]}) as answer:
            first, *vectors = [each["embedding"] for each in json.load(answer)["data"]]
        for text, vector in zip(TEXTS, vectors, strict=True):
            likeness = sum(x * y for x, y in zip(first, vector, strict=True))
            print(f"  {likeness:6.3f}  {text}", flush=True)

    def rank(self, model: str) -> None:
        with self.asked(
            "/v1/rerank", {"model": model, "query": "where does a panda eat?", "documents": TEXTS}
        ) as answer:
            results = json.load(answer)["results"]
        for each in sorted(results, key=lambda each: -each["relevance_score"]):
            print(f"  {each['relevance_score']:6.3f}  {TEXTS[each['index']]}", flush=True)

    @contextmanager
    def asked(self, path: str, body: Any) -> Iterator[HTTPResponse]:
        """The answer to a body, as curl would ask it."""
        print(f"$ curl {self.url}{path} -d {shlex.quote(json.dumps(body))}", flush=True)
        request = urllib.request.Request(  # noqa: S310 - http
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=PATIENCE_SECONDS) as answer:
                yield answer
        except (OSError, ValueError, KeyError) as error:
            raise Failed(f"asking {path} failed: {error}") from error

    def stop(self) -> None:
        """End `up` politely, and see that it ended well."""
        if code := self.take_down()[0]:
            raise Failed(f"`up` exited with {code}")
        say("`up` has ended, and its servers with it.")

    def take_down(self) -> list[int]:
        """End what runs, the newest first, whatever state it is in; servers end with `up`. Returns the exit codes."""
        codes = []
        while self.started:
            process = self.started[-1]
            process.terminate()
            try:
                codes.append(process.wait(PATIENCE_SECONDS))
            except subprocess.TimeoutExpired:
                process.kill()
                codes.append(process.wait())
            if process.stdout is not None:
                process.stdout.close()
            self.started.pop()
        return codes

    def tail(self) -> Iterator[str]:
        """The end of what `up` and its servers said."""
        logs = sorted((self.home / "logs").glob("*.log")) if self.home.exists() else []
        for log in (self.home.with_name("up.err"), *(each for each in logs if each.name != "up.log")):
            if log.exists() and (lines := log.read_text("utf-8", "replace").splitlines()):
                yield f"--- the end of {log.name}"
                yield from lines[-15:]


def first_line(process: subprocess.Popen[str], seconds: float) -> str:
    """The first line that a process prints; empty when it ends or the time is over."""
    got: list[str] = []

    def read() -> None:
        if process.stdout is not None:
            got.append(process.stdout.readline())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(seconds)
    return got[0].strip() if got else ""


def shown_stream(answer: HTTPResponse) -> tuple[int, float]:
    """Print the text of a stream as it comes; how many tokens it had, and the seconds from the first to the last."""
    count, began, ended = 0, 0.0, 0.0
    for line in answer:
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line.removeprefix(b"data: "))
        if "error" in chunk:
            raise Failed(f"the answer broke off: {chunk['error']}")
        count = (chunk.get("usage") or {}).get("completion_tokens", count)
        for choice in chunk.get("choices") or []:
            if text := choice["delta"].get("content"):
                ended = time.monotonic()
                began = began or ended
                print(text, end="", flush=True)
    return count, ended - began


def without_ollama(path: str) -> str:
    """PATH without the folders that have an `ollama`."""
    folders = path.split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if shutil.which("ollama", path=folder) is None)


def show(arguments: Sequence[str]) -> None:
    print(f"$ ollama-modal {shlex.join(arguments)}", flush=True)


def say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ollama-modal-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def available_kind() -> Kind:
    """What there is on this machine to show it with."""
    real = real_kind()
    if real is None:
        say("No Ollama is here, and no wheel of the built-in engine is for this machine.")
        return "simulated"
    if has_engine() and not has_registry():
        say(
            f"{os.environ.get(MIRROR) or REGISTRY} cannot be reached for a model, so toy weights stand in: real engine."
        )
        return "toys"
    return real


def has_engine() -> bool:
    return importlib.util.find_spec("xllamacpp") is not None


def real_kind() -> Kind | None:
    if shutil.which("ollama") is not None:
        return "started"
    host = os.environ.get("OLLAMA_HOST", "") or "127.0.0.1:11434"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError, ValueError):
        direct.open(f"{host if '://' in host else f'http://{host}'}/api/version", timeout=2).close()
        return "found"
    return "engine" if has_engine() else None


def has_registry() -> bool:
    """Whether a registry answers that has the model."""
    url = os.environ.get(MIRROR) or REGISTRY
    try:
        urllib.request.urlopen(f"{url}/v2/library/smollm2/manifests/135m", timeout=REGISTRY_SECONDS).close()  # noqa: S310
    except (OSError, ValueError):
        return False
    return True


INTRODUCTIONS: dict[Kind, str] = {
    "simulated": "SIMULATED: there is no engine here (or --simulate), so the servers and the registry pretend;"
    " the rest is real.",
    "started": "With the `ollama` that is on PATH. The model comes from the network: 0.3 GB.",
    "found": "With the Ollama that answers here. The model comes from the network, 0.3 GB, and stays in that Ollama.",
    "engine": "With the built-in engine, llama.cpp, on this machine's processor. Models come from the network: 0.3 GB.",
    "toys": "With the built-in engine, llama.cpp. It runs toys of 0.3 MB, from a registry on this machine: they answer"
    " really, and know nothing.",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Show the main job on this machine.")
    parser.add_argument("--simulate", action="store_true", help="pretend, even where there is a real Ollama")
    given = parser.parse_args()
    interrupts = Interrupts()
    try:
        interrupts.listen()
        return shown("simulated" if given.simulate else available_kind(), interrupts)
    except KeyboardInterrupt:
        return 130


def shown(kind: Kind, interrupts: Interrupts) -> int:
    """The exit code of the demo of one kind."""
    say(INTRODUCTIONS[kind])
    started = time.monotonic()
    with scratch() as folder:
        demo = Demo(folder, kind, interrupts)
        try:
            demo.run()
        except KeyboardInterrupt:
            say("\ninterrupted; cleaning up")
            raise
        except (Failed, OSError, subprocess.SubprocessError) as error:
            print(f"\nerror: {error}", file=sys.stderr)
            if kind != "simulated":
                print("hint: is the network there? --simulate shows the same without it", file=sys.stderr)
            demo.take_down()
            for line in demo.tail():
                print(line, file=sys.stderr)
            return 1
        finally:
            demo.take_down()
    say(f"Done in {time.monotonic() - started:.0f} s; the scratch directory is gone.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
