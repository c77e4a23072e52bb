"""What fails or goes silent beside us: a pipe that nobody reads, a store that fails or hangs, a disk that is full."""
