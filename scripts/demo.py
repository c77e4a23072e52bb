"""Shows the main job on this machine: the stack comes up, a model is pulled through the queue, warmed, and asked.

Every line that begins with `$` is a command that is really run, as anybody could type it. All of it happens in a
scratch directory that is gone afterwards. `scripts/demo` sets up what this needs and starts it. A real Ollama is
preferred to the simulator: the binary on PATH, in the scratch directory; else a server that answers, which gets its
model from us.
"""

import argparse
import contextlib
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
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

Kind = Literal["simulated", "started", "found"]

MODEL = "llama3.2"
QUESTION = "Why does the GPU sleep while the ledger does not?"
TIERS = ("a10g", "h100")
READY_SECONDS = 60.0
SLOWLY = "7MB"
"""The simulated model has 20 MB: so the bar can be seen."""

COMMAND = [sys.executable, "-m", "app.local"]


class Failed(Exception):
    """A step of the demo did not go as it should."""


class Demo:
    """The steps, in a scratch directory of their own."""

    def __init__(self, scratch: Path, kind: Kind) -> None:
        self.kind = kind
        self.home = scratch / "home"
        self.models = scratch / "models"
        self.up: subprocess.Popen[str] | None = None
        self.url = ""
        self._step = 0
        self._env = {**os.environ, "OLLAMA_MODAL_HOME": str(self.home)}
        self._env.pop("OLLAMA_MODELS", None)

    def run(self) -> None:
        self.step("Start the stack: servers, workers, the ledger, the gateway")
        self.start_up()
        self.step(f"Pull {MODEL} through the queue")
        limit = ["--rate-limit", SLOWLY] if self.kind == "simulated" else []
        first = self.ollama_modal("pull", MODEL, *limit, "--no-wait", captured=True).strip()
        say(f"The job {first} is in the ledger now. Asking for the same model attaches to the same job:")
        self.ollama_modal("pull", MODEL)
        self.step("Ask for it once more: it is here, so nothing is fetched")
        self.ollama_modal("pull", MODEL)
        self.ollama_modal("models")
        if self.kind != "found":  # else the directory is not ours to read
            self.step("Verify every byte against the digests of the manifest")
            self.ollama_modal("verify", MODEL)
        self.step("Warm it: load it on the tier that fits its size")
        self.ollama_modal("warm", MODEL)
        self.ollama_modal("status")
        self.step("Chat with it through the gateway, which knows the tier")
        self.chat()
        self.step("Look back: all jobs, and the story of the pull")
        self.ollama_modal("jobs")
        self.ollama_modal("job", first)
        self.step("Stop")
        self.stop_up()

    def step(self, what: str) -> None:
        self._step += 1
        print(f"\n{self._step}. {what}", flush=True)

    def start_up(self) -> None:
        arguments = ["up", "--port", "0"]
        if self.kind != "found":
            arguments += [*(word for tier in TIERS for word in ("--tier", tier)), "--models", str(self.models)]
        if self.kind == "simulated":
            arguments.append("--simulate")
        show(arguments)
        log = self.home.with_name("up.err")
        with log.open("wb") as err:
            self.up = subprocess.Popen(
                [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=err, env=self._env, text=True, process_group=0
            )
        line = first_line(self.up, READY_SECONDS)
        if not line.startswith("ready "):
            raise Failed("`up` did not become ready")
        print(line, flush=True)
        self.url = line.split()[1]

    def ollama_modal(self, *arguments: str, captured: bool = False) -> str:
        """Run a command as a person would; its stdout is answered when `captured`, else it is shown."""
        show(arguments)
        done = subprocess.run(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE if captured else None,
            env=self._env,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Failed(f"`ollama-modal {shlex.join(arguments)}` exited with {done.returncode}")
        return done.stdout or ""

    def chat(self) -> None:
        body = {"model": MODEL, "stream": False, "messages": [{"role": "user", "content": QUESTION}]}
        print(f"$ curl {self.url}/api/chat -d {shlex.quote(json.dumps(body))}", flush=True)
        answer, tier = posted(f"{self.url}/api/chat", body)
        print(f"{MODEL}, on tier {tier}: {answer['message']['content'].strip()}", flush=True)

    def stop_up(self) -> None:
        """End `up` politely, and see that it ended well."""
        code = self.take_down()
        if code != 0:
            raise Failed(f"`up` exited with {code}")
        say("`up` has ended, and its servers with it.")

    def take_down(self) -> int | None:
        """End `up` whatever state it is in; its servers end with it."""
        if self.up is None:
            return None
        self.up.send_signal(signal.SIGTERM)
        try:
            return self.up.wait(30)
        except subprocess.TimeoutExpired:
            self.up.kill()
            return self.up.wait()
        finally:
            if self.up.stdout is not None:
                self.up.stdout.close()
            self.up = None

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


def posted(url: str, body: Any) -> tuple[Any, str]:
    """The answer, and the tier that gave it."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310 - http
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=120) as answer:
            return json.load(answer), answer.headers["x-served-tier"]
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise Failed(f"asking {url} failed: {error}") from error


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
    if shutil.which("ollama") is not None:
        return "started"
    host = os.environ.get("OLLAMA_HOST", "") or "127.0.0.1:11434"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError, ValueError):
        direct.open(f"{host if '://' in host else f'http://{host}'}/api/version", timeout=2).close()
        return "found"
    return "simulated"


INTRODUCTIONS: dict[Kind, str] = {
    "simulated": "SIMULATED: there is no Ollama here (or --simulate), so the servers and the registry pretend;"
    " the rest is real.",
    "started": "With the `ollama` that is on PATH. The model comes from the network: 2 GB, so this takes a while.",
    "found": "With the Ollama that answers here. The model comes from the network, 2 GB, and stays in that Ollama.",
}


def interrupted(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Show the main job on this machine.")
    parser.add_argument("--simulate", action="store_true", help="pretend, even where there is a real Ollama")
    given = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    kind: Kind = "simulated" if given.simulate else available_kind()
    say(INTRODUCTIONS[kind])
    started = time.monotonic()
    with scratch() as folder:
        demo = Demo(folder, kind)
        try:
            demo.run()
        except KeyboardInterrupt:
            say("\ninterrupted; cleaning up")
            return 130
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
