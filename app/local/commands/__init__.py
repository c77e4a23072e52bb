"""Commands of `ollama-modal` that need what only app knows, beside `up` and `plan`.

audit_command    `ollama-modal audit`: who did what
batch_commands   `ollama-modal batch` and `batches`: many prompts of a file
key_commands     `ollama-modal keys`: keys of the gateway
key_list         keys as a person reads them
local_estimates  what a batch will take on this machine
local_keys       the keys of this machine
report_commands  `ollama-modal night`, `ollama-modal cost` and `ollama-modal windows`
"""
