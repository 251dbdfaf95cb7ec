"""The cell player."""
