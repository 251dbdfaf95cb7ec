"""Search algorithms, one a file, behind the interface of `base`."""
