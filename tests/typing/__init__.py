"""Only type-checked, never run."""
