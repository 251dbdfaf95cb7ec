"""Strategies whose children are trained one by one."""
