"""Tells a webhook, in the JSON that Slack and those who copy it understand. Its address is a secret: it is never shown.

A webhook that hangs, or drips, is left after `within`: an alert is no reason to wait.
"""

from collections.abc import Callable
from datetime import timedelta

import httpx

from jobs.core.clock import Clock, SystemClock
from jobs.core.errors import BadRequest, Refused, ServerTrouble, Stalled, TooManyRequests, Trouble
from jobs.core.retry import Policy
from jobs.http.errors import LOOPBACK_IS_DIRECT
from jobs.http.watched_stream import Head, exchange

WITHIN = timedelta(seconds=8)
"""For one try, all of it."""

POLICY = Policy(attempts=3, within=timedelta(seconds=20), first=timedelta(seconds=1), longest=timedelta(seconds=4))


class Webhook:
    """Where alerts go.

    Args:
        url: its address.
        clock: for the time that a try may take.
        policy: how a try that failed is tried again.
        within: how long one may take.

    Raises:
        BadRequest: the address is none.

    """

    def __init__(
        self, url: str, *, clock: Clock | None = None, policy: Policy = POLICY, within: timedelta = WITHIN
    ) -> None:
        if not url.startswith(("https://", "http://")):
            raise BadRequest(
                "the webhook's address does not begin with https://", hint="look at OLLAMA_MODAL_WEBHOOK in its secret"
            )
        self._url = url
        self._clock = clock or SystemClock()
        self._policy = policy
        self._within = within

    def send(self, text: str) -> None:
        """Post a message.

        Raises:
            Trouble: it did not take it.

        """
        self._policy.call(lambda: self._post(text), sleep=self._clock.wait)

    def _post(self, text: str) -> None:
        began = self._clock.monotonic()

        def idle() -> None:
            if self._clock.monotonic() - began > self._within.total_seconds():
                raise Stalled(f"the webhook has not answered for {self._within.total_seconds():.0f} s")

        try:
            self._exchange(text, idle)
        except Trouble as trouble:
            shown = str(trouble).replace(self._url, "the webhook")
            raise type(trouble)(shown, hint=trouble.hint, retry_after=trouble.retry_after) from None

    def _exchange(self, text: str, idle: Callable[[], None]) -> None:
        limits = httpx.Limits(max_keepalive_connections=0)
        timeout = 2 * self._within.total_seconds()
        with httpx.Client(timeout=timeout, limits=limits, mounts=LOOPBACK_IS_DIRECT) as client:
            request = client.build_request("POST", self._url, json={"text": text})
            with exchange(client, request, doing="telling the webhook", idle=idle) as events:
                for event in events:
                    if isinstance(event, Head):
                        _check(event.status)
                        return


def _check(status: int) -> None:
    if status == 429:
        raise TooManyRequests("the webhook answered 429")
    if status >= 500:
        raise ServerTrouble(f"the webhook answered {status}")
    if status >= 300:
        raise Refused(f"the webhook answered {status}", hint="its address has changed or was revoked; renew the secret")
