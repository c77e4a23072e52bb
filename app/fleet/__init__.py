"""What should be: `app/fleet.toml`, read and checked.

batches       what is declared of batches
effect_notes  what is said at the start of keys that have no effect where the file is used
effects       what each key does, in a deployment and on one machine: the table
file          the file as it stands, and the times of the schedules, for whoever needs no more
gpus          what Modal rents: GPUs, their memory, how many a container may have
key_defaults  what keys may take whose own lines say nothing of it
misnamed      aliases that could not mean what they say
parameters    parameters of a model that may be set, by Ollama's names for its options
right_parts   what is right by itself of a file that is wrong elsewhere, so that all mistakes are told at once
schedule      when schedules are due: the moments that a cron line names, and the night that a moment belongs to
schema        reads all of it, and refuses it whole with key, value and remedy
values        the kinds of value that a type alone cannot check
"""
