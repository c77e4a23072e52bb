"""A volume has to appear at its mount path in one container and nowhere else.

Where the kernel lets us (as root, or in a user namespace), a container gets a root directory of its own in a private
mount namespace: everything of the machine, plus its volumes, the read-only ones truly read-only. Elsewhere a container
is told by an environment variable where its volume is (`Settings.mount_variables`), and nothing makes it read-only.
"""

import functools
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import PATIENCE

#: Fills the empty directory $ROOT with what stands in the machine's own root.
FURNISH = r"""
set -e
mount -t tmpfs tmpfs "$ROOT"
for entry in /*; do
  if [ -L "$entry" ]; then cp -P "$entry" "$ROOT$entry"
  elif [ -d "$entry" ]; then mkdir "$ROOT$entry"; mount --rbind "$entry" "$ROOT$entry"
  elif [ -f "$entry" ]; then touch "$ROOT$entry"; mount --bind "$entry" "$ROOT$entry"; fi
done
"""

#: Its loopback under the name that Modal's client looks for; nothing else is to be reached.
OWN_NETWORK = "ip link set lo name eth0 && ip link set eth0 up"


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
    script = ["set -e", OWN_NETWORK] if own_network else []
    script += [f"ROOT={shlex.quote(str(root))}", FURNISH]
    for bind in binds:
        source, target = shlex.quote(str(bind.source)), f'"$ROOT"{shlex.quote(str(bind.target))}'
        script.append(f"mkdir -p {target}; mount --bind {source} {target}")
        if bind.read_only:
            script.append(f"mount -o remount,bind,ro {target}")
    script.append(f'HERE=$PWD; exec {CHROOT} "$ROOT" sh -c \'cd "$0" && exec "$@"\' "$HERE" {shlex.join(inside)}')
    return [*unshare(), *(["--net"] if own_network else []), "sh", "-c", "\n".join(script)]
