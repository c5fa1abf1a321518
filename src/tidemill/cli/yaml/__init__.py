"""Reader of Azure's v2 YAML schemas: every error has its line and column."""
