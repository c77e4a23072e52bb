"""Which registries may be pulled from. Whoever may post a pull names the host that a worker asks, from where it stands.

A host is compared as a whole, port and all, in any case: what only looks like a listed one is another host.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from jobs.core.errors import BadRequest, Refused
from jobs.core.model_name import ModelName

USUAL = ("registry.ollama.ai", "hf.co", "huggingface.co")
"""Where Ollama's own names lead, and where it takes models from by a host in the name."""

ANY = "*"

REGISTRY_FORM = (
    "a host as it stands in a model's name, perhaps with a port; with http:// before it where it speaks no https"
)

_ENTRY = re.compile(r"(?:http://)?[a-z0-9_][a-z0-9_.-]{0,252}(?::[0-9]{1,5})?")


class Unlisted(Refused):
    """This registry is not among those that may be pulled from."""


@dataclass(frozen=True)
class Registries:
    """
    Args:
        hosts: those that may be asked; None for all of them.
        plain: those of them that are asked over http.
        remedy: where another one is to be listed.
    """

    hosts: frozenset[str] | None = None
    plain: frozenset[str] = frozenset()
    remedy: str = ""

    @classmethod
    def of(cls, entries: Iterable[str], remedy: str = "") -> Self:
        """Read them as a person lists them.

        Raises:
            BadRequest: one is no host.

        """
        listed = [entry.lower() for entry in entries]
        if wrong := [entry for entry in listed if not is_entry(entry)]:
            raise BadRequest(f"{wrong[0]!r} is no registry", hint=REGISTRY_FORM)
        plain = frozenset(entry.removeprefix("http://") for entry in listed if entry.startswith("http://"))
        hosts = frozenset(entry.removeprefix("http://") for entry in listed)
        return cls(None if ANY in listed else hosts, plain, remedy)

    def allow(self, name: ModelName) -> bool:
        return self.hosts is None or name.host.lower() in self.hosts

    def need(self, name: ModelName) -> None:
        """Insist that this model's registry may be asked.

        Raises:
            Unlisted: it may not.

        """
        if not self.allow(name):
            raise Unlisted(f"nothing is pulled from {name.host!r}: it is not listed", hint=self.remedy or None)

    def need_plain(self, name: ModelName) -> None:
        """Insist that it may be asked over http.

        Raises:
            Unlisted: it may not be asked at all.
            BadRequest: not without https.

        """
        self.need(name)
        if not self.is_plain(name):
            raise BadRequest(
                f"insecure pulls are made from loopback and from what is listed with http://, not from {name.host!r}",
                hint="leave `insecure` out",
            )

    def is_plain(self, name: ModelName) -> bool:
        """Whether this model's registry is asked over http."""
        host = name.host.lower()
        return host in self.plain or is_loopback(host.partition(":")[0])


ANYWHERE = Registries()


def is_entry(text: str) -> bool:
    return text == ANY or _ENTRY.fullmatch(text.lower()) is not None


def is_loopback(host: str) -> bool:
    """Whether this host can only be this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
