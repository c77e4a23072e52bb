"""What the processes of `up` promise."""
