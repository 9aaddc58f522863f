"""A package, so that tests import their helpers by name."""
