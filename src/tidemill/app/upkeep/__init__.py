"""What keeps a home in order: keys, removal by rules, deletion of workspaces, backups that were restored."""
