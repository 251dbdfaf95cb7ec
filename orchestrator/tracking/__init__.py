"""All that is written to MLflow."""
