"""Candidate operations, this project's and those of plug-ins, behind one interface, and the registry of their names."""
