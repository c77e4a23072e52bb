"""`python -m tests.modal.platform [--port N] [--secret NAME:KEY=VALUE]...`: a control plane until it is interrupted."""

import argparse
import signal
import sys
import threading

from tests.modal.platform.plane import Platform


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.modal.platform", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0, the default, picks a free one")
    parser.add_argument("--secret", action="append", default=[], metavar="NAME:KEY=VALUE")
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Platform(port=options.port) as platform:
        for secret in options.secret:
            name, _, pair = secret.partition(":")
            key, _, value = pair.partition("=")
            platform.create_secret(name, {key: value})
        print(platform.url, flush=True)
        print("\n".join(f"export {key}={value}" for key, value in platform.environ().items()), file=sys.stderr)
        stop.wait()


if __name__ == "__main__":
    main()
