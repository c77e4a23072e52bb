"""The batches of a gateway anywhere, over HTTP: files and posts by OpenAI's routes, the rest by those of the ops API.

A file is sent and read as it is streamed, never whole in memory.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jobs.core import errors
from jobs.core.clock import isoformat
from jobs.home.unreachable import hint_for

if TYPE_CHECKING:
    import httpx

    from jobs.batches.lines.line_check import Checked

Document = Mapping[str, Any]

PAGE = 100
"""As many batches as are asked for at once."""

CONNECT_SECONDS = 30.0
ANSWER_SECONDS = 600.0
"""A file is written and flushed before it is answered for."""

_BOUNDARY = "batch-of-lines-6b1f1c57"


class RemoteBatches:
    """All of it raises what the gateway says: Unauthorized, Refused, NotFound; NotFound as well where it is older.

    Args:
        url: of the gateway.
        headers: with the key.
        ask: asks it for an answer that is no failure, by method and path.
        refuse: raises what an answer says that is one.

    """

    def __init__(
        self, url: str, headers: Mapping[str, str], *, ask: Callable[..., Any], refuse: Callable[[Any, str], None]
    ) -> None:
        self._url, self._headers, self._ask, self._refuse = url, headers, ask, refuse

    # -- one batch, and all --------------------------------------------------------------------------------------------

    def get(self, id: str) -> Document:
        return self._document("GET", f"/batches/{quote(id, safe='')}")

    def cancel(self, id: str) -> Document:
        return self._document("POST", f"/batches/{quote(id, safe='')}/cancel")

    def all(self, limit: int | None) -> tuple[list[Document], bool]:
        """The newest, asked for page by page, and whether there are more."""
        found: list[Document] = []
        after: dict[str, Any] = {}
        while True:
            left = PAGE if limit is None else min(limit - len(found), PAGE)
            page = self._document("GET", "/batches", params={**after, "limit": left})
            found += page["batches"]
            if not page["more"] or not page["batches"]:
                return found, False
            if limit is not None and len(found) >= limit:
                return found, True
            after = {"after": found[-1]["id"]}

    # -- posting -------------------------------------------------------------------------------------------------------

    def post(
        self,
        pieces: Iterable[bytes],
        *,
        filename: str,
        endpoint: str,
        expires_at: datetime | None,
        start: str | None,
        max_dollars: float | None,
    ) -> Document:
        """Upload a file of lines, and post a batch of it."""
        file = self._uploaded(pieces, filename)
        body: dict[str, Any] = {
            "input_file_id": file["id"],
            "endpoint": endpoint,
            "completion_window": "24h",
            "by": expires_at and isoformat(expires_at),
            "start": start,
            "max_dollars": max_dollars,
        }
        given = {name: value for name, value in body.items() if value is not None}
        # Under this name it is posted once, however often that is asked for.
        named = {"idempotency-key": file["id"]}
        return self.get(self._ask("POST", "/v1/batches", base="", json=given, headers=named).json()["id"])

    def missing(self, model: str) -> errors.Trouble | None:
        """Why a model cannot answer there; None where it can."""
        try:
            self._document("GET", "/route", params={"model": model})
        except errors.NotFound as trouble:
            return trouble
        return None

    def estimate(
        self,
        checked: "Checked",
        *,
        endpoint: str,
        start: str | None,
        expires_at: datetime | None,
        max_dollars: float | None,
    ) -> Document | None:
        """What such lines will take; None where the gateway is older and does not tell."""
        models = [
            {
                "model": each.model,
                "lines": each.lines,
                "prompt_bytes": each.prompt_bytes,
                "max_tokens": each.max_tokens,
                "unlimited": each.unlimited,
            }
            for each in checked.models
        ]
        asked = {
            "models": models,
            "endpoint": endpoint,
            "start": start,
            "by": expires_at and isoformat(expires_at),
            "max_dollars": max_dollars,
        }
        body = {name: value for name, value in asked.items() if value is not None}
        try:
            return self._document("POST", "/batches/estimate", json=body)
        except errors.NotFound:
            return None

    def _uploaded(self, pieces: Iterable[bytes], filename: str) -> Document:
        named = filename.replace("\\", "_").replace('"', "_").replace("\r", "_").replace("\n", "_")
        head = (
            f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="{named}"\r\n'
            "content-type: application/jsonl\r\n\r\n"
        )

        def form() -> Iterator[bytes]:
            yield head.encode()
            yield from pieces
            yield f"\r\n--{_BOUNDARY}--\r\n".encode()

        kind = {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
        with self._asking(f"sending {filename!r} to the gateway at {self._url}") as client:
            answer = client.post(f"{self._url}/v1/files", content=form(), headers={**self._headers, **kind})
        if not answer.is_success:
            self._refuse(answer, "/v1/files")
        document: Document = answer.json()
        return document

    # -- files ---------------------------------------------------------------------------------------------------------

    def content(self, file_id: str) -> Iterator[bytes]:
        """The lines of a file, as they come."""
        path = f"/v1/files/{quote(file_id, safe='')}/content"
        with (
            self._asking(f"reading {file_id} from the gateway at {self._url}") as client,
            client.stream("GET", f"{self._url}{path}", headers=self._headers) as answer,
        ):
            if not answer.is_success:
                answer.read()
                self._refuse(answer, path)
            rest = b""
            for piece in answer.iter_bytes():
                *lines, rest = (rest + piece).split(b"\n")
                yield from (line + b"\n" for line in lines)
            if rest:
                yield rest

    @contextmanager
    def _asking(self, doing: str) -> Iterator["httpx.Client"]:
        import httpx  # noqa: PLC0415 - takes longer to import than most commands to run

        from jobs.http.errors import LOOPBACK_IS_DIRECT, translated  # noqa: PLC0415

        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        try:
            with translated(doing), httpx.Client(timeout=timeout, mounts=LOOPBACK_IS_DIRECT) as client:
                yield client
        except (errors.NetworkTrouble, errors.Misconfigured) as trouble:
            trouble.hint = trouble.hint or hint_for(self._url, trouble)
            raise

    def _document(self, method: str, path: str, **options: Any) -> Document:
        document: Document = self._ask(method, path, **options).json()
        return document
