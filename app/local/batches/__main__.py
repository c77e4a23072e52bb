"""`python -m app.local.batches`: the process that works on batches."""

import sys

from jobs.http.libraries_alone import import_libraries_alone

import_libraries_alone()

from app.local.batches.worker_process import main  # noqa: E402 - without the command line of httpx

if __name__ == "__main__":
    sys.exit(main())
