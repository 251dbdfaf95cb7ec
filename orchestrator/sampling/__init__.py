"""Optuna: its storage, its samplers, and what they draw."""
