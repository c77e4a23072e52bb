"""What containers of the control plane run in is what their images declare, made once, and told when it differs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from modal_proto import api_pb2

from tests.modal.platform.interpreters import RUNNING, interpreter, told
from tests.modal.platform.packages import UNUSED_SECONDS, declared, kept
from tests.support.checkout import ROOT
from tests.support.waiting import PATIENCE

BASE = api_pb2.Image(dockerfile_commands=["FROM python:3.12.10-slim-bookworm", "RUN apt-get update"])
ONE_OF_MANY = """
import sys, time
from pathlib import Path
from tests.modal.platform.packages import kept

def make(folder):
    folder.mkdir()
    with Path(sys.argv[1], "made").open("a") as made:
        made.write("once\\n")
    time.sleep(0.5)
    (folder / "content").write_text("whole")

assert (kept(["it"], make, Path(sys.argv[1])) / "content").read_text() == "whole"
"""


def on(base: api_pb2.Image, *lines: str, **files: str) -> list[api_pb2.Image]:
    context = [api_pb2.ImageContextFile(filename=f"/.{name}", data=text.encode()) for name, text in files.items()]
    layer = api_pb2.Image(dockerfile_commands=["FROM base", *lines], context_files=context)
    layer.base_images.add(docker_tag="base", image_id="im-1")
    return [base, layer]


def test_an_image_is_read_as_it_is_declared() -> None:
    """Python, options and requirements are the image's; a step that no environment can stand in for is refused."""
    copy = "COPY /.pins /.uv/0/requirements.txt"
    install = "RUN /.uv/uv pip install --python $(command -v python) --require-hashes --requirements "
    found = declared(on(BASE, copy, f"{install}/.uv/0/requirements.txt", pins="tzdata==1\n"), "2025.06", str)

    assert (found.series, found.arguments) == ("3.12", ("--require-hashes", "--requirements", "tzdata==1\n"))
    mounted = api_pb2.Image(dockerfile_commands=["FROM it", "COPY /python/. /usr/local"], context_mount_id="mo-1")
    name = "python-build-standalone.20240107.3.12.1-gnu"
    assert declared([mounted], "2025.06", {"mo-1": name}.__getitem__).series == "3.12"
    with pytest.raises(AssertionError, match="cannot do what an image asks for: RUN apt-get install -y git"):
        declared(on(BASE, "RUN apt-get install -y git"), "2025.06", str)


def test_many_that_ask_at_once_make_it_once(tmp_path: Path) -> None:
    """Of several processes that need the same one makes it, and the others wait until it is whole."""
    command = [sys.executable, "-c", ONE_OF_MANY, str(tmp_path)]
    many = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]

    assert [each.wait(timeout=PATIENCE) for each in many] == [0, 0, 0]
    assert (tmp_path / "made").read_text() == "once\n"


def test_what_was_left_half_made_is_made_anew(tmp_path: Path) -> None:
    """Whoever is killed while making leaves nothing that another would take for whole; what is unused for long goes."""

    def broken(folder: Path) -> None:
        folder.mkdir()
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        kept("it", broken, tmp_path)
    folder = kept("it", Path.mkdir, tmp_path)
    assert kept("it", broken, tmp_path) == folder

    whole = folder.with_suffix(".whole")
    os.utime(whole, (0, whole.stat().st_mtime - UNUSED_SECONDS - 1))
    kept("other", Path.mkdir, tmp_path)
    assert not folder.exists()


def test_a_python_that_is_not_here_is_stood_in_for() -> None:
    """Where the images' Python is not on the machine, the running one takes its place, and a report's head says so."""
    assert interpreter("3.99") == interpreter(RUNNING)
    assert told("3.99") == f"{told(RUNNING)}, for want of the 3.99 that their images bring"
