"""Where a registry may send us. Its redirects are followed from where a worker stands: inside somebody's network.

A registry's own host may be any that the operator lists, also a private one. It may send us to itself, to another
listed host, and to the public Internet: never into another private network, whatever names that goes by.
"""

import ipaddress
import re
from dataclasses import dataclass

import httpx

from jobs.core.errors import Unsupported
from jobs.core.sanitize import plain
from jobs.registry.allowlist import Registries, is_loopback

MAX_URL = 16_384
"""Characters of an address; signed ones have 2,000."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_HOST = re.compile(rb"[A-Za-z0-9_.:-]{1,253}")
_PORTS = {"http": 80, "https": 443}


def is_public(address: str) -> bool:
    """Whether this is an address that anybody on the Internet could be reached by."""
    try:
        ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.sixtofour:  # nobody is to be reached so any more (RFC 7526), and what relays there are may stand inside
            return False
        if ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip.ipv4_mapped:
            ip = ip.ipv4_mapped
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def shown_host(url: httpx.URL) -> str:
    """The host of an address, with its port where that is not its scheme's own: whom people are told of."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return host if url.port in (None, _PORTS.get(url.scheme)) else f"{host}:{url.port}"


def flaw(url: httpx.URL) -> str:
    """Why nobody can be asked at this address, in words; empty where somebody could be.

    Raises:
        ValueError: its host cannot be decoded.

    """
    if url.scheme not in _PORTS:
        return f"{url.scheme!r} is neither http nor https"
    if len(str(url)) > MAX_URL:
        return f"it has {len(str(url)):,} characters"
    labels = url.raw_host.removesuffix(b".").split(b".")
    if not url.host or not _HOST.fullmatch(url.raw_host) or not all(0 < len(label) < 64 for label in labels):
        return "it has no host"
    return "" if url.port is None or 0 < url.port < 65_536 else f"there is no port {url.port}"


@dataclass(frozen=True)
class Egress:
    """
    Args:
        base: of the registry that is asked.
        registries: those that the operator lists.
        sees_peers: connections are made from here, and not by a proxy, which has rules of its own.
    """

    base: httpx.URL
    registries: Registries
    sees_peers: bool = True

    def need(self, url: httpx.URL) -> None:
        """Insist that this address may be asked, as far as its text tells.

        Raises:
            Unsupported: it may not.

        """
        host = url.host.strip("[]")
        if not self._is_chosen(url) and _is_literal(host) and not is_public(host):
            raise self._refused(url, host)

    def need_peer(self, url: httpx.URL, address: str) -> None:
        """Insist on it once a connection is made, before a byte is sent: a name may lead anywhere.

        Raises:
            Unsupported: as above.

        """
        if self.sees_peers and not self._is_chosen(url) and not is_public(address):
            raise self._refused(url, address)

    def _is_chosen(self, url: httpx.URL) -> bool:
        """Whether the operator chose this host himself."""
        listed = (self.registries.hosts or frozenset()) | self.registries.plain
        return url.host.lower() == self.base.host.lower() or shown_host(url).lower() in listed

    def _refused(self, url: httpx.URL, address: str) -> Unsupported:
        return Unsupported(
            f"{shown_host(self.base)} redirects to {plain(shown_host(url))!r} at {plain(address)},"
            " which is no public address",
            hint=f"if it belongs to the registry, list it beside it. {self.registries.remedy}".strip(),
        )


def _is_literal(host: str) -> bool:
    if is_loopback(host):
        return True
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
