"""The gateway: the ASGI app, its server, and its composition on one machine and deployed.

admission_parts  puts together what limits keys: prices, budgets, and what the fleet says of both
app              identifies the caller, looks the path up in the table of routes, and hands on
cross_origin     lets pages of other origins ask the gateway: which may, and what browsers are told of it
compose          puts the gateway together from what differs between one machine and a deployment
deployed         the gateway of a deployment: one small container that is always there
http_cycle       one request and its answer, with as few steps and writes as there can be
http_head        the head of a request that comes again on its connection, which is compared and not read
http_protocol    HTTP/1.1 as the server reads it: strict about heads, with limits to every wait
http_server      serves the gateway from a thread of this process: uvicorn on an event loop of its own
origin_guard     keeps web pages of others out where no key does
shared_reads     what pages and commands are told of the ledger's dict, each sort of entries once for all who ask
"""
