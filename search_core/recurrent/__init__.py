"""Recurrent cells: language models, search by SNAS and DARTS, and retraining."""
