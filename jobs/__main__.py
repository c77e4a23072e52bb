"""`python -m jobs`: the command line without `up`, which `app.local` adds."""

from jobs.cli.main import run

if __name__ == "__main__":
    run()
