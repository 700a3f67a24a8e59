"""Runs a job as a stage would: `run_training_job.py JOB [nodes]`; with `nodes` on two machines that are both this one.

Prints messages, the metrics rows that were reported, and the counts, as lines of JSON. Exit codes: 75 asked to end, 1 failed.
"""

import json
import sys
from pathlib import Path

from cft_lab.store import EXIT_REQUEUE
from cft_lab.training.faults import TrainingError
from cft_lab.training.job import read_job
from cft_lab.training.launch import Node, run_job
from cft_lab.training.signals import Requeue


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


nodes = [Node("127.0.0.1"), Node("127.0.0.2")] if "nodes" in sys.argv else None
try:
    counts = run_job(
        read_job(Path(sys.argv[1])),
        report=lambda row: tell(row=row),
        say=lambda line: tell(said=line),
        progress=False,
        nodes=nodes,
    )
    tell(counts=counts)
except Requeue as ended:
    tell(said=str(ended))
    sys.exit(EXIT_REQUEUE)
except TrainingError as error:
    tell(error=str(error))
    sys.exit(1)
