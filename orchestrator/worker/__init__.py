"""What runs inside the workers of Ray."""
