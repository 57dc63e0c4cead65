"""Triton's side of the server: model contract, model repository, client, embedded Triton and backend.

The models themselves are in another directory, the repository.
"""

import os

# gRPC reads this variable on import. Without it, gRPC writes a line to standard error for each process that
# is started.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
