"""What the workers' server imports before it forks them (see `vmflearn.data.workers`); for nothing else."""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy's import would start its threads, and this process is to have none

import vmflearn.data.sources  # noqa: F401
