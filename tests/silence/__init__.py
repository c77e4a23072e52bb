"""What fails or goes silent beside us: pipes that nobody reads, stores that hang, disks that fill."""
