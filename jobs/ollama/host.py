"""`OLLAMA_HOST`, read as Ollama reads it (envconfig/config.go:22-60)."""

from dataclasses import dataclass
from typing import Self

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class OllamaHost:
    """Where an Ollama server listens, or is reached."""

    scheme: str = "http"
    host: str = "127.0.0.1"
    port: int = 11434

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host`, `host:port`, `:port`, `[v6]:port` or a URL. A port that is none gives way to the default."""
        scheme, separator, rest = text.strip().strip("\"'").partition("://")
        if not separator:
            scheme, rest = "http", scheme
        default = _PORTS.get(scheme, 11434) if separator else 11434
        hostport = rest.partition("/")[0]
        head, colon, tail = hostport.rpartition(":")
        if not colon or hostport.endswith("]") or (":" in head and not head.endswith("]")):
            head, tail = hostport, ""  # no port, or a bare IPv6 address
        port = int(tail) if tail.isdecimal() and int(tail) <= 65535 else default
        host = head.strip("[]")
        return cls(scheme, host or ("" if colon else "127.0.0.1"), port)

    @property
    def reached(self) -> str:
        """The host to reach it under: an unspecified bind address is reached over loopback."""
        return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - not bound here

    @property
    def url(self) -> str:
        """The address to reach it under."""
        host = self.reached
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"
