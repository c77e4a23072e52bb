"""`python -m jobs`: the command line without `up`, which `app.local` adds."""

from jobs.cli import run

if __name__ == "__main__":
    run()
