"""Batches over HTTP: OpenAI's files and batches, Anthropic's batches of messages. No line is run here.

acts                  what both dialects do with batches: post one, cancel one
asked                 what is asked of a batch beside its lines, and of pages of a list
batch_routes          OpenAI's batches
download              a file on its way to a caller, piece by piece
file_routes           OpenAI's files
handlers              the handler of each route
message_batch_routes  Anthropic's batches of messages
parts                 what a gateway has for batches, and what every route of them needs
received              a body as it comes, handed to a thread piece by piece
requests_list         the body of a batch of messages, read as it comes
told                  what is told of files and batches
upload_form           the form of an upload, read as it comes
"""
