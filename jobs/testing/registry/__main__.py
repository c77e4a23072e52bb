"""`python -m jobs.testing.registry`: a registry of made-up models, until a signal ends it."""

from jobs.testing.registry.server import main

if __name__ == "__main__":
    main()
