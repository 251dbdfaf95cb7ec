"""What studies say when they are looked at as a whole."""
