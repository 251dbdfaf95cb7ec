"""Strategies whose children share the weights of a supernet."""
