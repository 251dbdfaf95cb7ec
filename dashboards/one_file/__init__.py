"""A study as one HTML file to share."""
