"""What a person does with models at a shell, as Ollama's own command has it: `list`, `ps`, `show`, `run`.

chat      a conversation with a model, through a gateway
commands  the commands themselves, added to the command line by being imported
loaded    what is in memory where, as a table
shown     what a model is, in words
"""
