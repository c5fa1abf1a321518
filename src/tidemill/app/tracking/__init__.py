"""MLflow's runs, metrics, registered and logged models."""
