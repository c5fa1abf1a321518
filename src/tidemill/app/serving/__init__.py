"""Online endpoints, their deployments and instances."""
