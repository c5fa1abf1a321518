"""Container groups (Microsoft.ContainerInstance)."""
