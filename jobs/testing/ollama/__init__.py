"""An Ollama server that infers nothing, with the routes, errors and files of the real one.

__main__          `python -m jobs.testing.ollama`: an Ollama that infers nothing, until a signal ends it
anthropic_routes  the simulator's Anthropic route, `/v1/messages`
context           a prompt that does not fit the simulated model: cut without a word, or refused, as Ollama does it
download          one blob on its way into the simulator's directory, as ollama's server/download.go fetches it
faults            things that go wrong in the Ollama simulator, switched on per route while it runs
generation        answering a prompt, as all of the simulator's interfaces do it underneath: check, load, stream
                  frames, count
go_formats        what the simulator says of itself, how it counts, and the odd formats of Go that it has to speak
http              the simulator's HTTP front: finds the route, lets faults strike, sends answers piece by piece
json_schema       a small instance of a JSON schema, which the simulated model answers with
memory            what the simulator holds in memory: one load at a time, kept alive, dropped when whoever asked for
                  it leaves
model_output      what the simulated model says: a statement, the prompt again, JSON, thoughts, tool calls
native_routes     the simulator's own routes, `/api/*`, with the real shapes, statuses and texts, which differ from
                  route to route
openai_routes     the simulator's OpenAI routes: the native answer underneath, re-shaped, its mid-stream errors
                  swallowed
pull              how the simulator pulls: the frames and traps of ollama's server/images.go
requests          what passes between the simulator's HTTP front and its routes: requests, replies, and the server's
                  parts
responses_routes  the simulator's route for OpenAI's responses, `/v1/responses`
server            an Ollama server that infers nothing: `python -m jobs.testing.ollama serve`, or `OllamaDouble` in a
                  test
store             the simulator's models directory, kept and misread as Ollama keeps and misreads it
"""
