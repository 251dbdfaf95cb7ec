"""MLflow's store, read only."""
