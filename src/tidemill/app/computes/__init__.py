"""Clusters and other nodes: their rules, quotas, teams, isolation and identities."""
