"""Processes that live and die with `up`.

batch_worker    the process that works on batches: started when there is one, gone when there is none
server_process  servers: started in groups of their own, watched, started again, and taken down with all theirs
"""
