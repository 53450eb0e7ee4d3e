"""torchrun on one node of a batch job; pretrain.sbatch starts it, once on each.

It takes torchrun's arguments, and adds what a job needs: a meeting place on the first node, whatever that node's names
are; a new store for each attempt, without which a node that is started again is not found by the others; and, when the
scheduler tells it to stop, also by USR1, minutes for saving in place of half a minute (PyTorch 2.11 knows no such
setting). How it ends is said in a line, not in a traceback, and by the status: 128 and the signal if it was told to.
"""

import os
import sys

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == "__main__":
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "240")
    first = os.environ["SLURM_NODEID"] == "0"
    signals = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    try:
        main(["--rdzv-conf", f"is_host={first}", "--signals-to-handle", signals, *sys.argv[1:]])
    except SignalException as told:
        sys.exit(128 + told.sigval)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        sys.exit(f"error: process {rank} failed first (status {failure.exitcode}), see above")
