"""`python -m jobs.testing.ollama`: an Ollama that infers nothing, until a signal ends it."""

from jobs.http.libraries_alone import import_libraries_alone

import_libraries_alone()

from jobs.testing.ollama.server import main  # noqa: E402 - httpx comes with it

if __name__ == "__main__":
    main()
