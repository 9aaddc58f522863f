"""From running engines to a result folder: gates, sweeps, experiments."""
