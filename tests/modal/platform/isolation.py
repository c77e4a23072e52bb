"""A volume has to appear at its mount path in one container and nowhere else.

Where the kernel lets us (as root, or in a user namespace), a container gets a root directory of its own in a private
mount namespace: everything of the machine, plus its volumes, the read-only ones truly read-only. Elsewhere a container
is told by an environment variable where its volume is (`Settings.mount_variables`), and nothing makes it read-only.
"""

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.modal.platform import inside as within
from tests.modal.platform.inside import OWN_NETWORK
from tests.modal.platform.interpreters import BASE
from tests.support.waiting import PATIENCE


@dataclass(frozen=True)
class Bind:
    source: Path
    target: Path
    read_only: bool


CHROOT = shutil.which("chroot", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") or "chroot"
"""Its folder is often not on the PATH of anybody but root."""


@functools.cache
def unshare() -> tuple[str, ...]:
    """The command that gives a program a mount namespace of its own; empty where there is no way."""
    trial = f"mount -t tmpfs tmpfs /mnt && mount -o remount,bind,ro /mnt && {CHROOT} / true"
    for command in (("unshare", "--mount"), ("unshare", "--user", "--map-root-user", "--mount")):
        try:
            found = subprocess.run([*command, "sh", "-c", trial], capture_output=True, timeout=PATIENCE, check=False)
        except FileNotFoundError:
            return ()
        if found.returncode == 0:
            return command
    return ()


@functools.cache
def has_networks() -> bool:
    """Whether a program may have a network of its own."""
    if not unshare():
        return False
    trial = [*unshare(), "--net", "sh", "-c", OWN_NETWORK]
    return subprocess.run(trial, capture_output=True, timeout=PATIENCE, check=False).returncode == 0


def isolated(inside: Sequence[str], binds: Iterable[Bind], root: Path, *, own_network: bool = False) -> list[str]:
    """The command line that runs `inside` where the binds are in place; its process id stays the same."""
    root.mkdir()
    asked = {
        "root": str(root), "own_network": own_network,
        "binds": [(str(bind.source), str(bind.target), bind.read_only) for bind in binds],
    }  # fmt: skip
    enter = [str(BASE), "-I", "-S", str(within.__file__), "enter", json.dumps(asked)]
    return [*unshare(), *(["--net"] if own_network else []), *enter, *inside]
