"""From engines' reports to roles: how many engines of a pool prefill, how many decode."""
