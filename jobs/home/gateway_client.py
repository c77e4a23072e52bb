"""The jobs of a gateway anywhere, over HTTP: what it offers is what a ledger of this machine offers.

So the command line has the same words, JSON and exit codes wherever the jobs are. It keeps nothing and starts nothing;
who posts a job is told by the key.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NoReturn, Self
from urllib.parse import quote, urlsplit

import httpx

from jobs.core import errors
from jobs.core.clock import Clock, isoformat
from jobs.core.model_name import ModelName
from jobs.core.retry import REQUESTS, Policy
from jobs.core.sanitize import plain
from jobs.http.errors import LOOPBACK_IS_DIRECT, translated
from jobs.ledger.job import Job
from jobs.ledger.ledger import Posted
from jobs.models.aliases import Alias, need_alias
from jobs.ollama.responses import Listed

PATIENCE = timedelta(seconds=30)
"""A gateway reads a ledger before it answers; one that has said nothing for so long has gone."""

PAGE = 1_000
"""As many jobs as a gateway lists at once."""

_MEANING: dict[int, type[errors.Trouble]] = {
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    429: errors.TooManyRequests,
}
"""Of a status; of 400 to 499 the rest are our mistake, and all above are the gateway's trouble."""

_PLAN_SECONDS = 150.0
"""Registries are asked for it, and on Modal a container may have to start."""


class GatewayClient:
    """Posts, reads and changes the jobs of one gateway.

    Args:
        url: where the gateway answers.
        key: opens it; not needed on loopback without keys.
        clock: for waiting between two tries.
        client: instead of our own.
        policy: how often to try.

    """

    def __init__(
        self, url: str, key: str | None, *, clock: Clock, client: httpx.Client | None = None, policy: Policy = REQUESTS
    ) -> None:
        self.url = _checked(url)
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._clock = clock
        self._policy = policy
        self._client = client or httpx.Client(timeout=PATIENCE.total_seconds(), mounts=LOOPBACK_IS_DIRECT)

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
        return [job.id for job in self._page({"begin": begin})[0]]

    def select(
        self,
        *,
        kind: str | None = None,
        state: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> tuple[list[Job], int]:
        """The newest jobs that fit, and how many fit in all; asked for page by page."""
        query = {"kind": kind, "state": state, "since": since and isoformat(since)}
        fitting: dict[str, Any] = {name: value for name, value in query.items() if value}
        jobs, total = self._page(fitting, limit)
        page = jobs
        while page and len(jobs) < min(total, limit or total):
            page, _ = self._page({**fitting, "before": jobs[-1].id}, limit and limit - len(jobs))
            jobs = jobs + page
        return jobs, total

    def _page(self, query: Mapping[str, Any], limit: int | None = None) -> tuple[list[Job], int]:
        page = self._document("/jobs", params={**query, "limit": min(limit or PAGE, PAGE)})
        return [Job.from_json(each) for each in page["jobs"]], int(page["total"])

    # -- what is there -------------------------------------------------------------------------------------------------

    def models(self) -> tuple[list[Listed], list[Alias], list[str]]:
        """The whole models, their other names, and lines about the rest."""
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

    def health(self) -> dict[str, Any]:
        """How all of it stands."""
        return self._document("/health")

    def night(self) -> dict[str, Any]:
        """What the last night did there."""
        return self._document("/night")

    def cost(self, since: datetime) -> dict[str, Any]:
        """What was spent there since then, about."""
        return self._document("/cost", params={"since": isoformat(since)})

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

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """An answer that is no failure. Asking twice for the same does no harm anywhere here."""

        def ask() -> httpx.Response:
            with translated(f"asking the gateway at {self.url}"):
                answer = self._client.request(method, f"{self.url}/ops/v1{path}", headers=self._headers, **options)
            if not answer.is_success:
                self._refuse(answer)
            if not answer.headers.get("content-type", "").startswith("application/json"):
                raise self._not_ours(answer)
            return answer

        return self._policy.call(ask, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self._clock.wait(seconds)

    def _refuse(self, answer: httpx.Response) -> NoReturn:
        """Raise what the gateway says, as what it means for the command line."""
        try:
            failure = answer.json()
            error, hint = plain(str(failure["error"])), failure.get("hint")
        except (ValueError, KeyError, TypeError) as broken:
            if answer.status_code < 500:
                raise self._not_ours(answer) from broken
            error, hint = f"the gateway at {self.url} answers {answer.status_code}", None
        status = answer.status_code
        meaning = _MEANING.get(status, errors.BadRequest if status < 500 else errors.ServerTrouble)
        if meaning is errors.Unauthorized and not self._headers:
            hint = "give the key by --key, or better in OLLAMA_MODAL_KEY, which no list of processes shows"
        raise meaning(error, hint=plain(str(hint)) if hint else None, retry_after=_wait(answer))

    def _not_ours(self, answer: httpx.Response) -> errors.Trouble:
        return errors.Refused(
            f"what answers at {self.url} is no gateway of ours: {answer.status_code} from {answer.url.path}",
            hint="the address is that which `ollama-modal up` or the deployment printed",
        )


def _aliases(told: Iterable[Mapping[str, Any]]) -> Iterator[Alias]:
    """Those that can be read."""
    for each in told:
        with suppress(errors.BadName, KeyError, TypeError):
            yield Alias(need_alias(str(each["alias"])), ModelName.parse(str(each["model"])), str(each["by"]))


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise errors.BadRequest(
            f"{url!r} is no gateway's address", hint="as in https://gateway.example or http://127.0.0.1:11500"
        )
    if parts.username or parts.password:
        raise errors.BadRequest(
            "the gateway's address holds a name or password", hint="give the key by OLLAMA_MODAL_KEY"
        )
    return url.rstrip("/")


def _is_plain(id: str) -> bool:
    return len(id) <= 64 and id.isascii() and id.replace("-", "").isalnum()


def _posted(answer: httpx.Response) -> Posted:
    return Posted(Job.from_json(answer.json()), attached=answer.status_code == 200)


def _wait(answer: httpx.Response) -> timedelta | None:
    text = answer.headers.get("retry-after", "")
    return timedelta(seconds=int(text)) if text.isascii() and text.isdigit() and len(text) < 6 else None
