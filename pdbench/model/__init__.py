"""Models: their folders, weights and shapes."""
