"""Local deployments of the SDK (`local=True`): what it asks Docker for, done without Docker."""
