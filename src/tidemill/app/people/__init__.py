"""People, groups and programs: who they are, what they may, what they keep secret."""
