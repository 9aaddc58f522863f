"""Benchmark KV transfers with the NIXL calls of vLLM's connector; needs nixl, torch and numpy only."""
