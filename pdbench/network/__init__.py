"""What carries the KV cache: UCX, its names and logs, and a link slowed down on purpose."""
