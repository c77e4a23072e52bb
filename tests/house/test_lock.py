"""The lock is in step with what is listed, and no file knows one machine."""

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.checkout import ROOT


def pins() -> dict[str, str]:
    """The lock's blocks by package: the pin, its hashes, and who wants it."""
    blocks = re.split(r"^(?=[a-z])", (ROOT / "requirements.lock").read_text("utf-8"), flags=re.MULTILINE)[1:]
    return {canonicalize_name(block.partition("==")[0]): block for block in blocks}


def wanted() -> dict[str, Requirement]:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = [each for extra in pyproject["project"]["optional-dependencies"].values() for each in extra]
    listed = [*pyproject["project"]["dependencies"], *extras, *pyproject["dependency-groups"]["dev"]]
    return {canonicalize_name(each.name): each for each in map(Requirement, listed)}


def test_lock_is_in_step() -> None:
    """The lock pins what pyproject.toml lists, each within its range, and nothing that it no longer lists."""
    locked = pins()

    assert {name for name, block in locked.items() if "ollama-modal (pyproject.toml" in block} == set(wanted())
    for name, requirement in wanted().items():
        version = locked[name].partition("==")[2].split()[0]
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}"


def test_lock_pins_bytes_not_places() -> None:
    """Every pin has hashes, and the lock names no index, so it serves behind any of them."""
    assert not [name for name, block in pins().items() if "--hash=sha256:" not in block]
    assert not re.findall(r"://|--\S*index\S*|--find-links", (ROOT / "requirements.lock").read_text("utf-8"))


def kept_files() -> Iterator[Path]:
    """What a checkout holds beside what tools leave behind; works without git."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text("utf-8").splitlines()]
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name != ".git" and not any(map(Path(name).match, ignored))]
        yield from (Path(folder, name) for name in files if name != ".git" and not any(map(Path(name).match, ignored)))


def test_no_file_knows_one_machine() -> None:
    """No file holds a path of somebody's machine or the address of a package index."""
    foreign = re.compile(r"/root/\.|/home/\w|https?://[^ \"]*/simple\b|/packages/[0-9a-f]{2}/")

    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in kept_files()
        for match in foreign.finditer(path.read_text("utf-8", errors="replace"))
    ]

    assert not found, found
