"""What to do when a gateway's address leads to none: by what went wrong on the way, told from its causes. Pure."""

import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from jobs.core.errors import Misconfigured, Trouble
from jobs.http.loopback import HOSTS

ADDRESS = "the address is the one that `ollama-modal up` or `modal deploy` printed"


def hint_for(url: str, trouble: Trouble) -> str:  # noqa: PLR0911 - one for each cause
    """The likely cause and the next step."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    causes = list(_causes(trouble))
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in causes):
        return f"the certificate of {host} is not trusted here: name the file with those to trust in SSL_CERT_FILE"
    if isinstance(trouble, Misconfigured) or any(isinstance(each, ssl.SSLError) for each in causes):
        return f"port {port} does not speak https: try http://{parts.netloc}{parts.path}, if that way is safe"
    if any(isinstance(each, socket.gaierror) for each in causes):
        return f"no host is called {host!r}, or no name is found for now: is it spelt right? {ADDRESS}"
    if any(isinstance(each, ConnectionRefusedError) for each in causes):
        if host in HOSTS:
            return f"nothing listens on port {port}: start it: `ollama-modal up --port {port}`; or name another --url"
        return f"nothing listens on port {port} of {host}: does it run, and is that its port? {ADDRESS}"
    if any(isinstance(each, TimeoutError) or type(each).__name__.endswith("Timeout") for each in causes):
        return f"{host} is silent on port {port}: a wrong address, a firewall, or a gateway that hangs; {ADDRESS}"
    return f"see whether {url}/healthz answers; {ADDRESS}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
