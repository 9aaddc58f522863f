"""The machines: a Ray cluster's nodes, what is installed on them, a local cluster."""
