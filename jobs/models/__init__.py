"""What a model's own files say, and on which tier that places it.

aliases         other names for models: which one stands behind a name
capabilities    what a model can do, as Ollama tells it from the model's files
card            what is known of a model without any server: its name, its size, and what its own files say of it
card_files      the files of one model as its card is read from them: typed, each once, up to a bound
gguf            what the header of a GGUF file says, read as a hostile file is read
go_template     what a Go template tells of its model: which variables it uses, and whether it thinks
index           all manifests of a models directory in one file, so that whoever copies them need not walk it
model_settings  what an operator sets for one model: its context, parameters, a system prompt
near_names      which known names come near one that nobody has, at a cost that does not grow with them
placement       on which GPU a model belongs, by the memory it takes there
"""
