"""Prefill/decode disaggregation benchmarks on Ray Serve LLM: the library behind the scripts."""
