"""Images: what is read from files, how it is split, and how it is augmented."""
