"""Measures cold starts without an account: `scripts/bench_cold`.

bench            the whole run: ways of loading on a slow volume, what it prints, and which parts are asked for
deployment       the cold starts that a real deployment has recorded, as the same table
engine           one start of a real llama.cpp; runs in an environment of its own
make_model       a GGUF of any size with random weights; runs there as well
needs            what a part needs and does not find
other_model      a sleeping tier that is asked for another model than it keeps warm, before and after
processor        processor time of the imports of a server's container
scripted_engine  stands for `ollama serve` where only what lies around it is measured
slow_volume      a directory as a network volume shows it (slow_volume.c), built and mounted
wakes            wakes of a sleeping tier on the tests' control plane: how much of the wait is our own
"""
