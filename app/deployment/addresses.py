"""Where the deployed servers answer, and what opens the way to them. Looking an address up wakes nobody."""

from collections.abc import Iterable, Mapping

from loguru import logger

from app.resources import deployment, server_class


def proxy_headers(environ: Mapping[str, str]) -> dict[str, str]:
    """The headers that Modal's proxy wants, from the secret's variables."""
    return {"Modal-Key": environ["MODAL_PROXY_TOKEN_ID"], "Modal-Secret": environ["MODAL_PROXY_TOKEN_SECRET"]}


def addresses(tiers: Iterable[str]) -> dict[str, str]:
    """The address of the server of each of these tiers, as far as they are deployed."""
    urls = {}
    for tier in tiers:
        url = deployment.url(server_class(tier))
        if url is None:
            logger.warning("tier {} is not deployed", tier)
        elif url:
            urls[tier] = url
    return urls
