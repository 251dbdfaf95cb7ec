"""Processes that need not import PyTorch and MLflow, which takes 8 CPU seconds: they are forked from one that has.

They are as real as those of a user: each has its own process id, environment, folder and output, may be killed and
stopped, and starts Ray's processes. What differs: a variable of the environment that a library reads when it is
imported has the value that it had when the first of them was started. For Linux.
"""
