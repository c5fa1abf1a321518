"""Workspaces and resource groups."""
