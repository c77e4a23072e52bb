"""What should be: `app/fleet.toml`, read and checked.

file        the file as it stands, and the times of the schedules, for whoever needs no more
misnamed    aliases that could not mean what they say
parameters  parameters of a model that may be set, by Ollama's names for its options
schedule    when schedules are due: the moments that a cron line names, and the night that a moment belongs to
schema      reads all of it, and refuses it whole with key, value and remedy
values      the kinds of value that a type alone cannot check
"""
