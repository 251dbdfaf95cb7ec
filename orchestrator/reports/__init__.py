"""What a study comes to: comparison of strategies, regret, relations."""
