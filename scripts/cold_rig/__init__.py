"""Measures cold starts without an account: `scripts/bench_cold`.

bench          the whole run: ways of loading on a slow volume, and what it prints
engine         one start of a real llama.cpp; runs in an environment of its own
make_model     a GGUF of any size with random weights; runs there as well
slow_volume    a directory as a network volume shows it (slow_volume.c), built and mounted
"""
