"""`python -m app.local`: the command line as `ollama-modal` has it."""

from app.local.main import main

if __name__ == "__main__":
    main()
