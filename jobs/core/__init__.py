"""Values and small rules that everything uses; nothing here does I/O.

clock       the time, handed in
errors      the error tree; each error knows whether trying again can help
foreign     text and JSON from outside, made encodable, finite and shallow before anything else reads it
json_text   JSON of documents that may be long, made piece by piece
model_name  model names by Ollama's grammar
progress    how far an attempt has come
retention   what the weights may take, and for how long
retry       the retry policies, as values
sanitize    text from outside (names, messages of registries and servers) made fit to be shown to a person
since       since when, in one reading for the command line and for the API
units       numbers as people read and write them: decimal bytes, as Ollama shows them
"""
