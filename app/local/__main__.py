"""`ollama-modal`, and `python -m app.local`, which is the same. Nothing is imported before Ctrl-C is quiet."""

from jobs.cli.interrupt import leave_at_once


def main() -> None:
    leave_at_once()
    from app.local.main import main as run_command_line  # noqa: PLC0415 - all of it takes long

    run_command_line()


if __name__ == "__main__":
    main()
