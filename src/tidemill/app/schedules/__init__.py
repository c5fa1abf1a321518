"""What is submitted at set times."""
