"""TLS in front of a server of a test: a certificate of one's own, and a port that speaks TLS for one that does not."""

import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.support.waiting import PATIENCE


def self_signed(folder: Path, hosts: Sequence[str]) -> Path:
    """A file with a key and a certificate for 127.0.0.1 and these hosts; nobody trusts it who is not told to."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    names = [*map(x509.DNSName, hosts), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "self-signed.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return path


@contextmanager
def tls_before(port: int, certificate: Path) -> Iterator[int]:
    """A port that speaks TLS, and passes on to this one of loopback what comes in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    open_sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(work: object, *arguments: object) -> None:
        threads.append(threading.Thread(target=work, args=arguments))  # type: ignore[arg-type]
        threads[-1].start()

    def accept() -> None:
        with suppress(OSError):
            while True:
                accepted, _ = listener.accept()
                open_sockets.append(accepted)
                start(serve, accepted)

    def serve(accepted: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(accepted, server_side=True) as outer:
            open_sockets.append(outer)
            with socket.create_connection(("127.0.0.1", port)) as inner:
                open_sockets.append(inner)
                while asked := outer.recv(65_536):
                    inner.sendall(asked)
                    inner.settimeout(PATIENCE)
                    _answer(inner, outer)

    start(accept)
    try:
        yield listener.getsockname()[1]
    finally:
        for each in (listener, *open_sockets):
            with suppress(OSError):
                socket.socket.shutdown(each, socket.SHUT_RDWR)
            each.close()
        for thread in threads:
            thread.join(PATIENCE)


def _answer(inner: socket.socket, outer: ssl.SSLSocket) -> None:
    """Pass one answer on: its head, and as many bytes as that says."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = inner.recv(65_536)
        if not piece:
            return
        answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    left = int(lengths[0]) - len(body) if lengths else 0
    outer.sendall(answer)
    while left > 0 and (piece := inner.recv(65_536)):
        outer.sendall(piece)
        left -= len(piece)
