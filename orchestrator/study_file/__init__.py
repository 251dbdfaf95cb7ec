"""The study file: its sections, its sweep, and how it is read and checked."""
