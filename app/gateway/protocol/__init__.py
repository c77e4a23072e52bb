"""Requests, routes, the three dialects, headers and statuses.

body            the body of a request: how much may come and how slowly, and what all of them may take together
dialects        the three dialects: how each words an error, and how the end of a whole answer is recognised
errors          what goes wrong, as HTTP says it: one table of statuses
exchange        one request and the means to answer it: what every handler is given
forms           the one way in which a form may be written, so that no two readers cut it differently
header_lines    headers of an answer as they are written to its caller
headers         which headers pass
model_defaults  what an operator sets for a model, put into requests that leave it open
refusals        what Ollama refuses of a request by its body alone, before a model is loaded for it
request         what a request asks for, as far as it decides where it goes
routes          every route that Ollama's server registers, and what becomes of it here
usage_chunk     the usage of an OpenAI stream: asked for on the caller's behalf, counted, and taken out again
"""
