"""A study as its readers see it: what is asked for, what is done, and how it stands."""
