"""`ollama-modal`, and `python -m app.local`, which is the same."""

from typing import NoReturn

from jobs.cli.interrupt import leave_at_once


def main() -> NoReturn:
    leave_at_once()  # before what takes long to import
    from app.local.main import main as run_command_line  # noqa: PLC0415

    run_command_line()


if __name__ == "__main__":
    main()
