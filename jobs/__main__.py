"""`python -m jobs`: the command line without `up`, which `app.local` adds."""

from jobs.cli.interrupt import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # before what takes long to import
    from jobs.cli.main import run
    from jobs.cli.models import commands  # noqa: F401 - adds its own to the command line

    run()
