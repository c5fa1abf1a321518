"""Data, models, environments and code, where they lie, and registries that share them."""
