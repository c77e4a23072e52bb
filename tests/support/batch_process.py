"""A worker of batches as a process: `python -m tests.support.batch_process FOLDER GATEWAY`.

It works until it is killed, or there is nothing to do.
"""

import sys
import threading
from datetime import timedelta
from pathlib import Path

from jobs.core.clock import SystemClock
from tests.support.batch_runs import Runs
from tests.support.stores import open_store


def main(folder: str, gateway: str) -> None:
    root = Path(folder)
    store = open_store(root / "live.sqlite", SystemClock())
    store.ledger().sweep(no_worker_lives=True)  # nobody else works here
    Runs(store, root, gateway).worker().run(threading.Event(), idle_after=timedelta(seconds=0.2))
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
