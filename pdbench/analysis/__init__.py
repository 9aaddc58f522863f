"""From the table to answers."""
