"""How much work there is at sizes that people have."""
