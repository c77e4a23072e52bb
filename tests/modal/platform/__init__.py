"""A control plane small enough to read, so that the Modal half of the product can be tried without an account.

`plane.Platform` is what tests hold in their hands. Behind it, one asyncio loop in one thread owns all state: `wire`
turns gRPC calls into method calls, `queues` `dicts` `volumes` `blocks` `apps` `calls` each answer one family, and
`containers` starts real processes of Modal's own container entrypoint: most of them forked, by `forked`, from one
that has read it, and `inside` is what goes on there before the entrypoint. It is no model of the platform's
performance: what it copies is what our code can observe, sharp edges included.
"""
