"""From answers to figures, tables and pages."""
