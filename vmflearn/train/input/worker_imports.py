"""What the server of the training's workers imports before it forks them (see `vmflearn.data.workers`)."""

import vmflearn.data.worker_imports  # first: it keeps NumPy from starting threads
import vmflearn.train.input.batches  # noqa: F401
