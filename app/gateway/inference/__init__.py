"""A request to a model: routed, passed on, recorded.

abilities          requests for what a model cannot do, refused before it is loaded
answer_name        the model's name in an answer, put back as its caller asked for it
detached           requests that go on after their caller has left, because a load may hang on them
local_routes       the routes that are answered without a server
metrics            what `/metrics` shows, for Prometheus
operator_options   options of a request that only the operator may set
prompt_truncation  whether a prompt was cut, which Ollama does without a word
proxy              inference, passed on: to the tier that the model belongs to, byte for byte, as it comes
reply              what the caller of a passed request is sent: a server's answer as it comes, or an error
request_log        what is kept of a request: one record, written exactly once, with how it ended
route_cache        where requests went a moment ago, for as long as the models stay what they are
routing            which tier answers for a model, and why, in words and numbers
"""
