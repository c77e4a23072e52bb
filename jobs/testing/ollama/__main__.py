"""`python -m jobs.testing.ollama`: an Ollama that infers nothing, until a signal ends it."""

from jobs.testing.ollama.server import main

if __name__ == "__main__":
    main()
