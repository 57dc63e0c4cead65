"""The embedded Triton: found, started, shared, watched."""
