"""Triton's side."""

import os

# gRPC reads it when it is imported. Without, it writes a line to standard error for each process started.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
