"""The jobs of a gateway anywhere, over HTTP: what it offers is what a ledger of this machine offers.

So the command line has the same words, JSON and exit codes wherever the jobs are. It keeps nothing and starts nothing;
who posts a job is told by the key.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from jobs.core import errors
from jobs.core.clock import Clock, isoformat
from jobs.core.model_name import ModelName
from jobs.core.retry import REQUESTS, Policy
from jobs.core.sanitize import plain
from jobs.home.unreachable import ADDRESS, hint_for
from jobs.http.loopback import LoopbackClient, is_plain_loopback
from jobs.ledger.job import Job, Posted

if TYPE_CHECKING:
    import httpx

    from jobs.archive.audited import AuditPage, AuditQuery
    from jobs.home.remote_batches import RemoteBatches
    from jobs.home.remote_keys import RemoteKeys
    from jobs.models.aliases import Alias
    from jobs.ollama.responses import Listed

    Client = httpx.Client | LoopbackClient

PATIENCE = timedelta(seconds=30)
"""A gateway reads a ledger before it answers; one that has said nothing for so long has gone."""

KEY_HINT = "give the key by --key, or better in OLLAMA_MODAL_KEY, which no list of processes shows"

PAGE = 1_000
"""As many jobs as a gateway lists at once."""

_MEANING: dict[int, type[errors.Trouble]] = {
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    429: errors.TooManyRequests,
}
"""Of a status; of 400 to 499 the rest are our mistake, and all above are the gateway's trouble."""

_NONE: Mapping[str, str] = MappingProxyType({})

_PLAN_SECONDS = 150.0
"""Registries are asked for it, and on Modal a container may have to start."""


class Headers(Protocol):
    """Of an answer; their case does not matter."""

    def get(self, name: str, default: Any = ..., /) -> Any: ...


class Answer(Protocol):
    """As much of `httpx.Response` as is looked at."""

    @property
    def status_code(self) -> int: ...
    @property
    def is_success(self) -> bool: ...
    @property
    def headers(self) -> Headers: ...
    def json(self) -> Any: ...


class GatewayClient:
    """Posts, reads and changes the jobs of one gateway.

    Args:
        url: where the gateway answers; it may hold the key, as in `https://user:KEY@host`.
        key: opens it, before one in the address; not needed on loopback without keys.
        clock: for waiting between two tries.
        client: instead of our own.
        policy: how often to try.

    """

    def __init__(
        self, url: str, key: str | None, *, clock: Clock, client: "Client | None" = None, policy: Policy = REQUESTS
    ) -> None:
        self.url, self.key = address(url, key)
        self._headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        self._clock = clock
        self._policy = policy
        self._client = client or client_for(self.url, PATIENCE)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def reader(self) -> Self:
        """What reads the jobs: a gateway does both."""
        return self

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def post(
        self,
        kind: str,
        subject: str,  # noqa: ARG002 - follows from the model, there
        request: Mapping[str, Any],
        *,
        by: str,  # noqa: ARG002 - the key tells
        attempts: int | None = None,
    ) -> Posted:
        body = {"kind": kind, "attempts": attempts, **request}
        given = {name: value for name, value in body.items() if value is not None}
        return _posted(self._ask("POST", "/jobs", json=given))

    def refusal(self, kind: str, model: str) -> errors.Trouble | None:
        """Why a job of a kind about a model would be refused there; None when it would be posted. Posts nothing."""
        try:
            self._ask("POST", "/jobs", json={"kind": kind, "model": model}, params={"check": "true"})
        except (errors.Refused, errors.NotFound, errors.Unauthorized) as refusal:
            return refusal
        return None

    def retry(self, id: str, *, by: str, anyway: bool = False) -> Posted:  # noqa: ARG002 - the key tells
        query = {"anyway": "true"} if anyway else {}
        return _posted(self._ask("POST", f"/jobs/{quote(id, safe='')}/retry", params=query))

    def again(self, job: Job, *, by: str, anyway: bool = False) -> Posted:
        return self.retry(job.id, by=by, anyway=anyway)

    def cancel(self, id: str, *, by: str) -> Job:  # noqa: ARG002 - the key tells
        return Job.from_json(self._ask("POST", f"/jobs/{quote(id, safe='')}/cancel").json())

    def dismiss(self, id: str, *, by: str) -> Job:  # noqa: ARG002 - the key tells
        return Job.from_json(self._ask("POST", f"/jobs/{quote(id, safe='')}/dismiss").json())

    def get(self, id: str) -> Job:
        """The job as it stands there.

        Raises:
            NotFound: it has no such job.

        """
        if not _is_plain(id):
            raise errors.NotFound(f"there is no job {id!r}", hint="`ollama-modal jobs` lists them")
        return Job.from_json(self._ask("GET", f"/jobs/{id}").json())

    def ids(self, begin: str = "") -> list[str]:
        if not _is_plain(begin):
            return []
        return [job.id for job in self._pages({"begin": begin})[0]]

    def select(
        self,
        *,
        kind: str | None = None,
        state: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> tuple[list[Job], int | None]:
        """The newest jobs that fit, asked for page by page; and how many fit in all, None for more than these."""
        query = {"kind": kind, "state": state, "since": since and isoformat(since)}
        return self._pages({name: value for name, value in query.items() if value}, limit)

    def is_coming(self, subject: str) -> bool:
        """Whether a pull of this model is under way."""
        return bool(self._pages({"kind": "pull", "subject": subject, "state": "open"}, 1)[0])

    def dead(self) -> list[Job]:
        """The jobs that failed for good, and that nobody has mended or dismissed, the newest first."""
        return self._pages({"dead": "true"})[0]

    def _pages(self, query: Mapping[str, Any], limit: int | None = None) -> tuple[list[Job], int | None]:
        """So many jobs of that list, or all; and how many there are, None for more than these.

        A page may have few jobs, or none, and say all the same where the list goes on.
        """
        jobs: list[Job] = []
        on: dict[str, Any] = {}
        while True:
            left = PAGE if limit is None else min(limit - len(jobs), PAGE)
            page = self._document("/jobs", params={**query, **on, "limit": left})
            jobs += [Job.from_json(each) for each in page["jobs"]]
            if page["next"] is None:
                return jobs, len(jobs)
            if limit is not None and len(jobs) >= limit:
                return jobs, None
            on = {"cursor": page["next"]}

    # -- what is there -------------------------------------------------------------------------------------------------

    def models(self) -> "tuple[list[Listed], list[Alias], list[str]]":
        """The whole models, their other names, and lines about the rest."""
        from jobs.ollama.responses import Listed  # noqa: PLC0415 - few ask for them

        answer = self._document("/models")
        models = [Listed.of(each) for each in answer["models"]]
        # A gateway of an older version knows no aliases.
        return models, list(_aliases(answer.get("aliases", ()))), list(map(str, answer["complaints"]))

    def route(self, model: str, context: int | None) -> dict[str, Any]:
        """On which tier a model is answered, and why.

        Raises:
            NotFound: it is not there.

        """
        query = {"model": model} | ({"context": str(context)} if context is not None else {})
        return self._document("/route", params=query)

    def tiers(self) -> list[dict[str, Any]]:
        """How each tier stands."""
        return list(self._document("/tiers")["tiers"])

    def health(self) -> dict[str, Any]:
        """How all of it stands."""
        return self._document("/health")

    def night(self) -> dict[str, Any]:
        """What the last night did there."""
        return self._document("/night")

    def cost(self, since: datetime) -> dict[str, Any]:
        """What was spent there since then, about."""
        return self._document("/cost", params={"since": isoformat(since)})

    def cold(self, since: datetime) -> dict[str, Any]:
        """The cold starts there since then, by their phases.

        Raises:
            NotFound: the gateway is of an older version, which tells none.

        """
        return self._document("/cold", params={"since": isoformat(since)})

    @property
    def keys(self) -> "RemoteKeys":
        """Its keys, for an administrator."""
        from jobs.home.remote_keys import RemoteKeys  # noqa: PLC0415 - few ask for them

        return RemoteKeys(self._ask)

    @property
    def batches(self) -> "RemoteBatches":
        """Its batches: an administrator's are all, another's his own."""
        from jobs.home.remote_batches import RemoteBatches  # noqa: PLC0415 - few ask for them

        return RemoteBatches(self.url, self._headers, ask=self._ask, refuse=self._refuse)

    def audit(self, query: "AuditQuery") -> "AuditPage":
        """Who did what there, asked for page by page.

        Raises:
            NotFound: the gateway is of an older version, which writes none down.
            Unauthorized: the key is no administrator's.

        """
        from jobs.access.audit_line import AuditLine  # noqa: PLC0415 - few ask for them
        from jobs.archive.audited import AuditPage  # noqa: PLC0415

        asked = {"since": isoformat(query.since), "who": query.who, "act": query.act, "before": query.before}
        lines: list[AuditLine] = []
        while True:
            left = PAGE if query.limit is None else min(query.limit - len(lines), PAGE)
            given = {name: value for name, value in asked.items() if value}
            document = self._document("/audit", params={**given, "limit": left})
            lines += map(AuditLine.from_json, document["lines"])
            next = document["next"]  # noqa: A001 - as its JSON has it
            if next is None or (query.limit is not None and len(lines) >= query.limit):
                return AuditPage(lines, next)
            asked["before"] = next

    def suggested_windows(self, since: datetime, worth: timedelta) -> dict[str, Any]:
        """The windows that would have paid there since then.

        Args:
            since: from when on it is looked.
            worth: how long a GPU may be awake for a cold start that nobody meets; whole minutes count.

        Raises:
            NotFound: the gateway is of an older version, or has no fleet.

        """
        minutes = int(worth.total_seconds() // 60)
        return self._document("/windows", params={"since": isoformat(since), "worth": minutes})

    def ollama(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the gateway answers as an Ollama would, at a path of Ollama's.

        Raises:
            NotFound: there is no such model, or not for this key.

        """
        answer: dict[str, Any] = self._ask(method, path, base="", **({} if body is None else {"json": body})).json()
        return answer

    def plan(self) -> dict[str, Any]:
        """What the next night would do there."""
        return self._document("/plan", timeout=_PLAN_SECONDS)

    def prune_plan(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What a prune that is asked for in these words would do there."""
        query = {name: str(value).lower() for name, value in request.items() if value is not None}
        return self._document("/plan/prune", params=query, timeout=_PLAN_SECONDS)

    # -- how -----------------------------------------------------------------------------------------------------------

    def _document(self, path: str, **options: Any) -> dict[str, Any]:
        document: dict[str, Any] = self._ask("GET", path, **options).json()
        return document

    def _ask(self, method: str, path: str, *, base: str = "/ops/v1", **options: Any) -> Answer:
        """An answer that is no failure. Asking twice for the same does no harm anywhere here."""

        def ask() -> Answer:
            answer = self._sent(method, f"{base}{path}", **options)
            if not answer.is_success:
                self._refuse(answer, f"{base}{path}")
            is_json = answer.headers.get("content-type", "").startswith("application/json")
            if not is_json and answer.status_code != 204:
                raise self._not_ours(answer, f"{base}{path}")
            return answer

        return self._policy.call(ask, sleep=self._sleep)

    def _sent(self, method: str, path: str, *, headers: Mapping[str, str] = _NONE, **options: Any) -> Answer:
        """Whatever answer there is; where there is none, the error says what to do about it."""
        all_headers = {**self._headers, **headers}
        doing = f"asking the gateway at {self.url}"
        url = f"{self.url}{path}"
        try:
            if isinstance(self._client, LoopbackClient):
                try:
                    return self._client.request(method, url, headers=all_headers, **options)
                except errors.NetworkTrouble as trouble:
                    raise type(trouble)(f"{doing}: {trouble}") from trouble
            from jobs.http.errors import translated  # noqa: PLC0415 - brings httpx, which takes long to import

            with translated(doing):
                return self._client.request(method, url, headers=all_headers, **options)
        except (errors.NetworkTrouble, errors.Misconfigured) as trouble:
            trouble.hint = hint_for(self.url, trouble)
            raise

    def _sleep(self, seconds: float) -> None:
        self._clock.wait(seconds)

    def _refuse(self, answer: Answer, path: str) -> NoReturn:
        """Raise what the gateway says, as what it means for the command line."""
        try:
            failure = answer.json()
            error, hint = plain(str(failure["error"])), failure.get("hint")
        except (ValueError, KeyError, TypeError) as broken:
            if answer.status_code < 500:
                raise self._not_ours(answer, path) from broken
            error, hint = f"the gateway at {self.url} answers {answer.status_code}", None
        status = answer.status_code
        meaning = _MEANING.get(status, errors.BadRequest if status < 500 else errors.ServerTrouble)
        if meaning is errors.Unauthorized and self._headers:
            hint = hint or "is the key, in OLLAMA_MODAL_KEY or by --key, one of this gateway's?"
        elif meaning is errors.Unauthorized:
            hint = KEY_HINT
        raise meaning(error, hint=plain(str(hint)) if hint else None, retry_after=_wait(answer))

    def _not_ours(self, answer: Answer, path: str) -> errors.Trouble:
        hint = f"{ADDRESS}, without a path behind it"
        if 300 <= answer.status_code < 400:
            there = plain(str(answer.headers.get("location", "nowhere")))[:200]
            hint = f"it sends on to {there!r}: is that the address?"
        return errors.Refused(
            f"what answers at {self.url} is no gateway of ours: {answer.status_code} from {path}", hint=hint
        )


def _aliases(told: Iterable[Mapping[str, Any]]) -> "Iterator[Alias]":
    """Those that can be read."""
    from jobs.models.aliases import Alias, need_alias  # noqa: PLC0415 - few ask for them

    for each in told:
        with suppress(errors.BadName, KeyError, TypeError):
            yield Alias(need_alias(str(each["alias"])), ModelName.parse(str(each["model"])), str(each["by"]))


def client_for(url: str, patience: timedelta) -> "Client":
    """What asks it: this machine is asked without httpx, which takes longer to import than most commands to run."""
    if is_plain_loopback(url):
        return LoopbackClient(patience.total_seconds())
    import httpx  # noqa: PLC0415

    from jobs.http.errors import LOOPBACK_IS_DIRECT  # noqa: PLC0415

    return httpx.Client(timeout=patience.total_seconds(), mounts=LOOPBACK_IS_DIRECT)


def address(url: str, key: str | None) -> tuple[str, str | None]:
    """Where a gateway answers, without a key in it, and what opens it: the given key, else the one in the address.

    There it is the password, or the name where that is all, as the gateway takes Basic credentials.

    Raises:
        BadRequest: it is no address; what it holds of a key is not in the message.

    """
    hint = "as in https://gateway.example or http://127.0.0.1:11500"
    try:
        parts = urlsplit(url)
        is_wrong = parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0
    except ValueError:  # brackets of an address that has none, a port that is none
        is_wrong = True
    if is_wrong or parts.query or parts.fragment:
        raise errors.BadRequest(f"{_without_key(url)!r} is no gateway's address", hint=hint)
    host = parts.netloc.rpartition("@")[2]
    held = unquote(parts.password or parts.username or "")
    opening = key or held or None
    if opening and not (opening.isascii() and opening.isprintable()):
        raise errors.BadRequest(
            f"the key for {host!r} has characters that no key has", hint="in an address, `%` and `@` are %25 and %40"
        )
    return urlunsplit((parts.scheme, host, parts.path, "", "")).rstrip("/"), opening


def _without_key(url: str) -> str:
    """What may be said of an address that makes no sense: whatever stands before its last @ may be a key."""
    _, at, after = url.rpartition("@")
    return f"…@{after}" if at else url


def _is_plain(id: str) -> bool:
    return len(id) <= 64 and id.isascii() and id.replace("-", "").isalnum()


def _posted(answer: Answer) -> Posted:
    return Posted(Job.from_json(answer.json()), attached=answer.status_code == 200)


def _wait(answer: Answer) -> timedelta | None:
    text = answer.headers.get("retry-after", "")
    return timedelta(seconds=int(text)) if text.isascii() and text.isdigit() and len(text) < 6 else None
