"""What runs on the control plane that stands in for Modal's, and that plane itself."""
