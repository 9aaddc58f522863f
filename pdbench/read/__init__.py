"""From result folders to one table."""
