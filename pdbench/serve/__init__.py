"""From a layout to running engines, and what these say of themselves."""
