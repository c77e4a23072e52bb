"""What Ollama's error texts mean. Its statuses say little: most of what goes wrong is a line of text after a 200.

One table, first match wins, from the exact texts of ollama's source (server/images.go, download.go, auth.go,
routes.go). The texts are read here and nowhere else.
"""

import re
from dataclasses import dataclass
from datetime import timedelta

from jobs.core.errors import (
    BadName,
    BadRequest,
    Corrupt,
    CutShort,
    DiskFull,
    Misconfigured,
    NewerOllamaNeeded,
    NotFound,
    NotWritable,
    PartsDamaged,
    Refused,
    ServerTrouble,
    Stalled,
    TooManyRequests,
    Trouble,
    Unauthorized,
    Unreachable,
    Unsupported,
)
from jobs.core.sanitize import plain

PARTS_HINT = (
    "in that server's models directory (its OLLAMA_MODELS) remove blobs/sha256-*-partial and "
    "blobs/sha256-*-partial-*, then pull again; other models keep their blobs"
)


LONGEST = 4_000
"""Characters of a text that are looked at: a server's own are short, and what it quotes of others is anybody's."""


@dataclass(frozen=True)
class _Meaning:
    pattern: re.Pattern[str]
    trouble: type[Trouble]
    hint: str | None = None


def _means(pattern: str, trouble: type[Trouble], hint: str | None = None) -> _Meaning:
    return _Meaning(re.compile(pattern, re.DOTALL), trouble, hint)


PERMANENT = (
    _means(r"pull model manifest: file does not exist", NotFound, "look the name and the tag up in the model library"),
    _means(r"pull model manifest: 412: ", NewerOllamaNeeded, "update Ollama on that server, then pull again"),
    _means(r"pull model manifest: 40[13]: ", Unauthorized, "the registry does not let this server in"),
    _means(r"realm host .* does not match", Unauthorized, "the registry sends its tokens' address elsewhere"),
    _means(r"unauthorized", Unauthorized, "the registry does not let this server in"),
    _means(
        r"server gave HTTP response to HTTPS client|insecure protocol http",
        Misconfigured,
        "list the registry with http:// before its host, and pull again",
    ),
    _means(
        r"tls: failed to verify certificate|x509: ",
        Misconfigured,
        "set SSL_CERT_FILE, in that server's environment, to a file with the certificates to trust",
    ),
    _means(r"requires MLX support", Unsupported, "pull a GGUF tag of this model instead"),
    _means(r"ollama cloud is disabled", Unsupported, "a cloud model has no weights to serve; choose a local one"),
    _means(r"invalid model name|use either :local or :cloud|name \".*\" is invalid", BadName),
    _means(r"does not support (generate|chat|thinking|tools|embed|insert|vision)", Unsupported),
    _means(r"read-only file system|permission denied", NotWritable, "let the server's user own its models directory"),
)
CLEANUP_FIRST = (
    _means(r"no space left on device|disk quota exceeded", DiskFull, "free some space there, or delete a model"),
    _means(r"\AEOF\Z", PartsDamaged, PARTS_HINT),
)
RETRYABLE = (
    _means(r"digest mismatch", Corrupt, "Ollama removed the file; pulling again fetches it anew"),
    _means(r"-partial(-\d+)?: no such file or directory", ServerTrouble, "another process finished the same blob"),
    _means(r"pull model manifest: 429: ", TooManyRequests),
    _means(r"pull model manifest: 5\d\d: ", ServerTrouble, "the registry has trouble; try later"),
    _means(r"pull model manifest: 4\d\d: ", Refused),
    _means(r"no such host|connection refused|network is unreachable|no route to host|dial tcp", Unreachable),
    _means(r"context deadline exceeded|i/o timeout|Client\.Timeout|TLS handshake timeout", Stalled),
    _means(r"EOF|connection reset|broken pipe|max retries exceeded|context canceled|request canceled", CutShort),
    _means(r"server busy", TooManyRequests, "the server's queue is full; try in a moment"),
)
MEANINGS = PERMANENT + CLEANUP_FIRST + RETRYABLE

_TORN_MANIFEST = "the model's manifest on that server is torn: remove the file under manifests/ by hand, or pull again"

_STATUSES: dict[int, type[Trouble]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Unsupported,
    404: NotFound,
    405: Unsupported,
    429: TooManyRequests,
    499: CutShort,
    501: Unsupported,
    503: TooManyRequests,
}


def pull_trouble(text: str, *, doing: str) -> Trouble:
    """What an `{"error": text}` in or before a pull's stream means. A text nobody knows is worth another try."""
    looked_at = text[:LONGEST]
    for meaning in MEANINGS:
        if meaning.pattern.search(looked_at):
            return meaning.trouble(f"{doing}: {plain(text)}", hint=meaning.hint)
    return ServerTrouble(f"{doing}: {plain(text)}")


_LONGEST_WAIT = timedelta(days=1)
"""Whoever says more, by mistake or not, is asked again all the same."""


def refusal(status: int, text: str, *, doing: str, retry_after: str | None = None) -> Trouble:
    """What an answer with an error status means, outside of a pull."""
    said = f"{doing}: {plain(text) or f'status {status}, without a word'}"
    looked_at = text[:LONGEST]
    if status == 500 and text == "EOF":
        return Corrupt(said, hint=_TORN_MANIFEST)
    if status == 403 and not text:
        return Refused(
            said, hint="Ollama on loopback refuses foreign Host and Origin headers; set OLLAMA_ORIGINS or drop them"
        )
    trouble = _STATUSES.get(status) or (ServerTrouble if status >= 500 else BadRequest)
    if status in {400, 500}:
        trouble = next((each.trouble for each in MEANINGS if each.pattern.search(looked_at)), trouble)
    hint = "pull it first: `ollama-modal pull NAME`" if trouble is NotFound and "model" in text else None
    seconds = retry_after if retry_after and retry_after.isascii() and retry_after.isdecimal() else None
    wait = min(timedelta(seconds=int(seconds[:9])), _LONGEST_WAIT) if seconds else None  # nine digits are years
    return trouble(said, hint=hint, retry_after=wait)
