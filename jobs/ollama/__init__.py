"""The client of one server, an Ollama or what is asked like one.

client         HTTP client of one Ollama server: what it has, what it runs, pull through it, load, ask
errors         what Ollama's error texts mean
go_types       values as Go decodes them from JSON, and its own words for what it refuses
host           `OLLAMA_HOST`, read as Ollama reads it (envconfig/config.go:22-60)
llama_server   client of a server whose engine is llama.cpp's, where that is asked otherwise
pull_progress  watching a pull that an Ollama server does: what its frames mean, and when it has stopped moving
request_content  what Ollama refuses as it makes its own request of another dialect's
request_types  the bodies that Ollama decodes, as Go types
responses      what an Ollama server answers, as far as we read it
"""
