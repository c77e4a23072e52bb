"""What the documents show to be run: the commands of every block that is fenced as `console`, in order, as they are
typed; and the blocks in other languages, each in whole.
"""

import json
import re
import shlex
import subprocess
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.checkout import ROOT
from tests.support.waiting import PATIENCE

DOCUMENTS = ("README.md", "app/README.md", "app/clients.md", "jobs/README.md")
"""All that are shown to people and have something to run."""

NOT_RUN: dict[str, str] = {
    "git clone URL ollama-modal && cd ollama-modal": "whoever runs the tests has done it",
    "scripts/demo": "tests/e2e/test_demo.py runs it",
    "pixi run pull-test-models": "pixi is a program of its own; what its tasks run is run by tests/modal/test_jobs.py",
    "OLLAMA_HOST=https://GATEWAY OLLAMA_AUTH=1 ollama pull llama3.2": (
        "it is Ollama's own command; tests/e2e/test_clients.py runs it where OLLAMA_BIN names one"
    ),
    'OLLAMA_BASE_URL="$OLLAMA_MODAL_URL" OLLAMA_API_CONFIGS="{\\"0\\": {\\"key\\": \\"$OLLAMA_MODAL_KEY\\"}}"'
    " uvx --python 3.11 open-webui serve --host 127.0.0.1": (
        "Open WebUI takes 7 GB; tests/e2e/test_document_clients.py sends what it sends"
    ),
}
"""What is shown and cannot be run by the tests of the documents, with the reason."""


@dataclass(frozen=True)
class Command:
    """One command of a document, without its comment, and where it stands."""

    document: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.text}"


def commands(document: str) -> list[Command]:
    """All of a document's, in order; a line that ends in a backslash goes on in the next."""
    text = (ROOT / document).read_text("utf-8")
    found = []
    for block in re.finditer(r"(?ms)^(?P<indent> *)```console\n(?P<lines>.*?)^(?P=indent)```$", text):
        line = text.count("\n", 0, block.start("lines")) + 1
        for typed in re.split(r"(?<!\\)\n", textwrap.dedent(block["lines"])):
            command = re.sub(r"\s{2,}#.*", "", typed).replace("\\\n", "").strip()
            if command:
                found.append(Command(document, line, command))
            line += typed.count("\n") + 1
    return found


def blocks(document: str, language: str) -> list[str]:
    """All of a document's that are fenced as this language, in order, each in whole."""
    text = (ROOT / document).read_text("utf-8")
    found = re.finditer(rf"(?ms)^(?P<indent> *)```{language}\n(?P<lines>.*?)^(?P=indent)```$", text)
    return [textwrap.dedent(block["lines"]) for block in found]


class Typist:
    """Types a document's commands one after the other, as its reader would, in one shell's environment.

    Args:
        environ: the reader's; `export` adds to it.
        folder: where he is.
        fill: puts what this reader has in the place of what stands for it, as in `FILE`.

    """

    def __init__(self, environ: Mapping[str, str], folder: Path, fill: Callable[[str], str]) -> None:
        self.environ = dict(environ)
        self._folder = folder
        self._fill = fill

    def type(self, command: Command) -> str:
        """Run it; all that it said. It has to succeed."""
        text = self._fill(command.text)
        if text.startswith("export "):
            return self._export(text)
        done = subprocess.run(
            ["sh", "-c", text],
            cwd=self._folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def _export(self, text: str) -> str:
        names = [word.partition("=")[0] for word in shlex.split(text)[1:]]
        told = subprocess.run(
            ["sh", "-c", f"{text}; env"], cwd=self._folder, env=self.environ, capture_output=True, text=True, check=True
        )
        lines = (line.partition("=") for line in told.stdout.splitlines())
        self.environ.update({name: value for name, _, value in lines if name in names})
        return ""


def write_prompts(folder: Path) -> Path:
    """The file of lines that documents post as a batch."""
    path = folder / "prompts.jsonl"
    body = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}
    lines = ({"custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body} for id in ("a1", "a2"))
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path
