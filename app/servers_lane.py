"""What the servers worker does in its container: wake the server of a tier and have it load a model.

It has neither the volume nor a GPU. The servers are asked at their public address, with the token that Modal's proxy
wants; looking an address up wakes nobody.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import httpx
import modal
from loguru import logger

from app.fleet import Fleet, declared
from app.freshness import KNOWN
from app.lanes import work
from app.resources import APP, SERVERS, ledger, queue
from jobs.catalog import place
from jobs.clock import SystemClock
from jobs.gguf import Facts
from jobs.ledger import Ledger
from jobs.names import ModelName
from jobs.ollama import Ollama
from jobs.protocols import DictLike
from jobs.record import SERVERS_LANE
from jobs.registry import Registry
from jobs.retrying import NEVER, Policy
from jobs.run import Run
from jobs.tasks import Workshop, perform

AT_ONCE = 4

_QUEUE_FOR_A_GPU = timedelta(minutes=5)
"""On top of a server's own start: there may be none free at once."""


def run() -> bool:
    """Work the servers lane in this container; false when there is more to do but its time is up."""
    clock, fleet = SystemClock(), declared()
    book = Ledger(queue, ledger, clock)
    shop = Workshop(
        clock=clock,
        registry=Registry(clock=clock),
        servers=_servers(os.environ),
        tiers=fleet.catalog_tiers(),
        belongs=lambda name: tier_of(name, fleet, ledger),
    )
    return work(book, SERVERS_LANE, lambda run: _awake(run, shop, fleet), clock, concurrency=AT_ONCE)


def _servers(environ: Mapping[str, str]) -> dict[str, Ollama]:
    """The servers that are deployed, by tier."""
    token = {"Modal-Key": environ["MODAL_PROXY_TOKEN_ID"], "Modal-Secret": environ["MODAL_PROXY_TOKEN_SECRET"]}
    client = httpx.Client(headers=token, limits=httpx.Limits(max_keepalive_connections=0))
    found = {}
    for tier, name in SERVERS.items():
        try:
            url = modal.Server.from_name(APP, name).get_url()
        except modal.exception.NotFoundError:
            logger.warning("tier {} is not deployed", tier)
            continue
        if url:
            found[tier] = Ollama(url, client=client, policy=NEVER)
    return found


def tier_of(name: ModelName, fleet: Fleet, facts: DictLike) -> str | None:
    """The tier that the fleet declares for a model, or the one that what is known of it on the volume leads to."""
    if tier := fleet.belongs(name):
        return tier
    known = (facts.get(KNOWN) or {}).get(str(name.folded()))
    if known is None:
        return None
    return place(int(known["size"]), fleet.catalog_tiers(), facts=Facts.from_json(known["facts"])).tier.name


def _awake(run: Run, shop: Workshop, fleet: Fleet) -> dict[str, Any]:
    """Wait until the server is up, then do what the job asks for.

    At zero containers every request is answered 503 at once, and starts one.
    """
    name = ModelName.parse(run.job.request["model"])
    tier, server = shop.server_of(name, run.job.request.get("tier"))
    startup = timedelta(seconds=fleet.tier(tier.name).startup_timeout_seconds)
    run.progress.begin(f"waking {tier.name}")
    waking = Policy(
        attempts=10_000, within=startup + _QUEUE_FOR_A_GPU, first=timedelta(seconds=1), longest=timedelta(seconds=5)
    )
    waking.call(server.version, sleep=run.sleep)
    return perform(run, shop)
