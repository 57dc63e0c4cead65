"""The embedded Triton: this package finds, starts, shares and watches it."""
