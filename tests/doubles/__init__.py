"""The simulator and the registry, and what they share with the real ones."""
