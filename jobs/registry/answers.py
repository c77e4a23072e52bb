"""What a registry answers, read within bounds: addresses, spans, tokens, and the words of an error.

Nothing is decoded, and all but blobs is read up to a number of bytes. What a status means is for `session` to say.
"""

import re
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx

from jobs.core import foreign
from jobs.core.errors import Corrupt, ServerTrouble, Unsupported
from jobs.core.sanitize import plain
from jobs.registry.egress import flaw, shown_host
from jobs.registry.range_journal import ByteRange
from jobs.weights.manifest import Layer

MAX_TOKEN_BYTES = 1 << 20
_MAX_WORDS_BYTES = 4_096
_MAX_DRAINED_BYTES = 1 << 16
_LONGEST_WAIT = 24 * 3600

_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}")
_LENGTH = re.compile(r"[0-9]{1,19}")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,20})-(\d{1,20})/(\d{1,20}|\*)")


def redirect_target(response: httpx.Response) -> httpx.URL:
    """Where a redirect leads.

    Raises:
        Unsupported: from HTTPS to something less.
        ServerTrouble: nowhere.

    """
    target = parsed_address(response.headers["Location"], f"{shown_host(response.url)} redirects us", response.url)
    if response.url.scheme == "https" and target.scheme != "https":
        raise Unsupported(f"{shown_host(response.url)} redirects from https to {target.scheme}://{shown_host(target)}")
    return target


def parsed_address(text: str, who: str, base: httpx.URL | None = None) -> httpx.URL:
    """The address that a header names.

    Raises:
        ServerTrouble: it is none.

    """
    try:
        url = base.join(text) if base else httpx.URL(text)
        why = flaw(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ServerTrouble(f"{who} to what is no address: {plain(error)[:200]}") from error
    if why:
        raise ServerTrouble(f"{who} to {plain(text)[:200]!r}, which is no address: {why}")
    return url


def announced_span(response: httpx.Response, layer: Layer, asked: ByteRange) -> ByteRange:
    """Which bytes this answer brings.

    Raises:
        Corrupt: the registry's blob has another size than its manifest says.
        ServerTrouble: other bytes than were asked for.

    """
    if response.status_code == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None:
            raise ServerTrouble(f"{shown_host(response.url)} does not say which bytes of {layer.digest} it sends")
        size = layer.size if match[3] == "*" else int(match[3])
        coming = int(match[1]), int(match[2]) + 1
    else:
        size = int(response.headers.get("Content-Length", layer.size))  # a number, or it would have been refused
        coming = 0, layer.size
    if size != layer.size:
        raise Corrupt(f"{layer.digest} has {size} bytes at {shown_host(response.url)}; its manifest says {layer.size}")
    if response.status_code == 206 and coming != asked:
        raise ServerTrouble(
            f"{shown_host(response.url)} sends bytes {coming} of {layer.digest} where {asked} were asked for"
        )
    return coming


def read_at_most(response: httpx.Response, most: int) -> bytes:
    """The body's beginning as it came over the wire, `most` bytes and no piece more."""
    raw = bytearray()
    for chunk in response.iter_raw():
        raw += chunk
        if len(raw) >= most:
            break
    return bytes(raw[:most])


def error_words(response: httpx.Response) -> str:
    """What a person may read of an error: the sentence in it, where there is one; an encoded one has no words."""
    if _encoding(response):
        return ""
    raw = read_at_most(response, _MAX_WORDS_BYTES)
    try:
        sentence = _sentence(foreign.document(raw, "the error"))
    except Corrupt:
        sentence = ""
    told = sentence or response.headers.get("X-Error-Message", "") or raw.decode(errors="replace")
    return plain(told).strip()


def _sentence(document: object) -> str:
    """As the OCI registries, Hugging Face and others tell it: `errors[0].message`, `error`, `message`."""
    if isinstance(document, dict) and isinstance(errors := document.get("errors"), list) and errors:
        document = errors[0]
    if not isinstance(document, dict):
        return ""
    return next(
        (each for each in map(document.get, ("message", "error", "code")) if each and isinstance(each, str)), ""
    )


def drain(response: httpx.Response) -> None:
    """Read a short body to its end, so that the connection can be used again."""
    length = response.headers.get("Content-Length", "")
    if _LENGTH.fullmatch(length) and int(length) < _MAX_DRAINED_BYTES:
        for _ in response.iter_raw():
            pass


def _encoding(response: httpx.Response) -> str:
    encoding: str = response.headers.get("Content-Encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def need_no_encoding(response: httpx.Response) -> None:
    """Insist on the bytes themselves, as they were asked for: a few that are encoded may stand for any number."""
    if encoding := _encoding(response):
        raise Unsupported(
            f"{shown_host(response.url)} answers encoded as {plain(encoding)[:80]!r}, which was not asked for"
        )


def need_one_length(response: httpx.Response) -> None:
    length = response.headers.get("Content-Length")
    if length is not None and not _LENGTH.fullmatch(length):
        raise ServerTrouble(f"{shown_host(response.url)} answers with {plain(length)[:80]!r} for a length")


def token_in(raw: bytes) -> str:
    try:
        document = foreign.document(raw, "the registry's token answer")
    except Corrupt as error:
        raise ServerTrouble(str(error)) from error
    token = (document.get("token") or document.get("access_token")) if isinstance(document, dict) else None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise ServerTrouble("the registry's token answer holds no token")
    return token


def retry_after(response: httpx.Response, now: datetime) -> timedelta | None:
    """How long the other side wants us to wait: in seconds or until a date; nonsense counts for nothing."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return timedelta(seconds=min(int(text[:9]), _LONGEST_WAIT))  # nine digits are years
    try:
        left = parsedate_to_datetime(text[:64]) - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(timedelta(0), min(left, timedelta(seconds=_LONGEST_WAIT)))
