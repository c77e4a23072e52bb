"""What the documents name exists: folders, commands, scripts, pixi tasks."""

import importlib
import os
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests.house.drawing import Drawing
from tests.house.test_folders import folders
from tests.support.checkout import ROOT

MODULES = Drawing.of(ROOT).paths

DOCUMENTS = [ROOT / name for name in ("README.md", "app/README.md", "app/clients.md", "jobs/README.md")]


def fenced(text: str) -> list[str]:
    return re.findall(r"^```[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_readme_maps_what_exists() -> None:
    """README's map has a line for every folder of app and jobs, and none for what is not there."""
    text = (ROOT / "README.md").read_text("utf-8")
    drawn = re.findall(r"^([\w./-]+/)  +\S", fenced(text.split("## The map")[1])[0], re.MULTILINE)

    assert not [path for path in drawn if not (ROOT / path).is_dir()]
    there = {f"{folder}/" for folder in [*folders("app"), *folders("jobs")]} | {"app/", "jobs/"}
    assert {path for path in drawn if path.startswith(("app/", "jobs/"))} == there


@cache
def subcommands() -> frozenset[str]:
    """What `ollama-modal` understands. Imported here, so that a broken command line fails only the tests about it."""
    importlib.import_module("app.local.main")  # adds `up`
    app: Any = importlib.import_module("jobs.cli.main").app
    return frozenset(typer.main.get_group(app).commands)


def pixi_tasks() -> dict[str, Any]:
    tasks: dict[str, Any] = tomllib.loads((ROOT / "pixi.toml").read_text("utf-8"))["tasks"]
    return tasks


def is_command(line: str) -> bool:
    """Whether a command line of ours names a script, a module or a subcommand that exists."""
    words = shlex.split(line)
    match words:
        case ["ollama-modal", subcommand, *_]:
            return subcommand in subcommands()
        case ["modal", "deploy" | "run" as verb, *rest] if "-m" in rest:
            module, _, function = rest[rest.index("-m") + 1].partition("::")
            return module in MODULES and (verb == "deploy" or hasattr(importlib.import_module(module), function))
        case ["python", "-m", module, *_]:
            return module in MODULES
        case ["uv", "run", "--script", script, *_]:
            return (ROOT / script).exists()
        case [script, *_] if script.startswith("scripts/"):
            return os.access(ROOT / script, os.X_OK)
        case _:
            return False


@pytest.mark.parametrize("task", sorted(pixi_tasks()))
def test_pixi_tasks_exist(task: str) -> None:
    """Every pixi task says what it does and runs a command that exists."""
    assert pixi_tasks()[task]["description"]
    assert is_command(pixi_tasks()[task]["cmd"]), pixi_tasks()[task]["cmd"]


def test_pixi_refers_to_the_one_list() -> None:
    """pixi.toml names no Python package of its own, only this project, and serves the platforms we promise."""
    pixi = tomllib.loads((ROOT / "pixi.toml").read_text("utf-8"))

    assert pixi["pypi-dependencies"] == {"ollama-modal": {"path": ".", "editable": True}}
    assert set(pixi["dependencies"]) == {"python", "ollama", "uv"}
    assert set(pixi["workspace"]["platforms"]) == {"linux-64", "linux-aarch64", "osx-arm64"}


def code(text: str) -> list[str]:
    """Each line of a document that is set as code."""
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    return [line for block in fenced(text) for line in block.splitlines()] + spans


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_what_exists(document: Path) -> None:
    """Every command that a README shows can be run: subcommands, scripts, pixi tasks, module paths."""
    lines = "\n".join(code(document.read_text("utf-8")))

    wrong = [
        f"ollama-modal {name}" for name in re.findall(r"\bollama-modal ([a-z]\w*)", lines) if name not in subcommands()
    ]
    wrong += [script for script in re.findall(r"\bscripts/[\w.-]+", lines) if not (ROOT / script).exists()]
    wrong += [f"pixi run {task}" for task in re.findall(r"\bpixi run ([\w-]+)", lines) if task not in pixi_tasks()]
    wrong += [line for line in re.findall(r"\bmodal (?:run|deploy) [^\n]*-m [\w.:]+", lines) if not is_command(line)]
    wrong += [f"-m {name}" for name in re.findall(r"\bpython -m ((?:app|jobs)[\w.]*)", lines) if name not in MODULES]
    assert not wrong, wrong
