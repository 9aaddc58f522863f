"""From a few measured runs to predictions of every layout, and to the layouts worth measuring (docs/planner.md)."""
