"""An Ollama server that infers nothing, with the routes, errors and files of the real one.

__main__          `python -m jobs.testing.ollama`: an Ollama that infers nothing, until a signal ends it
anthropic_routes  the simulator's Anthropic route `/v1/messages` and OpenAI's `/v1/responses`
download          one blob on its way into the simulator's directory, as ollama's server/download.go fetches it
faults            things that go wrong in the Ollama simulator, switched on per route while it runs
generation        answering a prompt, as all of the simulator's interfaces do it underneath: check, load, stream
                  frames, count
go_formats        what the simulator says, how it counts, and Go's formats and JSON as far as Ollama's users see them
http              the simulator's HTTP front: finds the route, lets faults strike, sends answers piece by piece
memory            what the simulator holds in memory: one load at a time, kept alive, dropped when whoever asked for
                  it leaves
native_routes     the simulator's own routes, `/api/*`, with the real shapes, statuses and texts, which differ from
                  route to route
openai_routes     the simulator's OpenAI routes: the native answer underneath, re-shaped, its mid-stream errors
                  swallowed
pull              how the simulator pulls: the frames and traps of ollama's server/images.go
requests          what passes between the simulator's HTTP front and its routes: requests, replies, and the server's
                  parts
server            an Ollama server that infers nothing: `python -m jobs.testing.ollama serve`, or `OllamaDouble` in a
                  test
store             the simulator's models directory, kept and misread as Ollama keeps and misreads it
"""
