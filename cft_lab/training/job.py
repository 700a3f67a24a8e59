"""One fine-tuning as a record, and what each of its processes does: `python -m cft_lab.training.job JOB.json` is one process.

Everything that a process needs is in the record, so that a training runs the same in this process, in torchrun's children, and on
another node. The first process writes metrics.jsonl and what became of the training.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cft_lab.config import DataError, SelectionConfig, TrainConfig
from cft_lab.json_files import read_json, read_records, write_json
from cft_lab.records import Example
from cft_lab.runtime import load_model, resolve_precision
from cft_lab.tracking import MetricsFile
from cft_lab.training.candidates import candidate_folder, check_model_folder, save_candidate
from cft_lab.training.faults import TrainingError, explain_no_room, memory_explained
from cft_lab.training.ranks import Ranks, empty_model, leave, open_ranks
from cft_lab.training.resume import resume_step
from cft_lab.training.signals import Requeue, StopRequest, stop_requests

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# what is left beside the job's file
OUTCOME = "outcome.json"  # {"kind": "running", "done" or "requeue", ...}, by the first process
FAILED = "failed-{rank}.json"  # why a process cannot go on, where starting it again would not help
SAYS = "say: "  # begins the lines of a child's output that are for people
Report = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class TrainingJob:
    """A fine-tuning of the model in `base` on the records in `examples`; candidates, metrics and resume states go to `folder`."""

    base: Path
    examples: Path  # JSON lines of Example
    folder: Path
    train: TrainConfig
    seed: int
    end_of_turn: str  # the token that ends an answer
    style: str  # a PromptFormat.style
    until_step: int | None = None  # optimizer step to stop after, to go on another time; None is the last


def write_job(job: TrainingJob, path: Path) -> None:
    """Writes a job as JSON."""
    paths = {name: str(getattr(job, name).resolve()) for name in ("base", "examples", "folder")}
    write_json(path, {**vars(job), **paths, "train": asdict(job.train)})


def read_job(path: Path) -> TrainingJob:
    """Reads what `write_job` wrote."""
    row = read_json(path)
    row |= {name: Path(row[name]) for name in ("base", "examples", "folder")}
    selection = SelectionConfig(**row["train"].pop("selection"))
    return TrainingJob(**row | {"train": TrainConfig(**row["train"], selection=selection)})


def run_rank(
    job: TrainingJob,
    ranks: Ranks,
    stop: StopRequest,
    *,
    report: Report,
    say: Callable[[str], None],
    begun: Callable[[int, int], None] = lambda done, steps: None,
    progress: bool = False,
) -> dict[str, Any]:
    """One process's part of a job; every process calls it. Gives the counts of the training for a manifest.

    `report` gets each row of metrics.jsonl as it is written, `say` messages, `begun` the steps that are done and all that there
    are: in the first process only. Raises TrainingError and DataError; Requeue if the process was asked to end and has saved.
    """
    from transformers import AutoTokenizer

    from cft_lab.runtime import machine, quiet_transformers, set_threads
    from cft_lab.training.encode import encode_examples
    from cft_lab.training.loop import total_steps, train

    quiet_transformers()
    set_threads(job.train.cpu_threads)
    check_model_folder(job.base)
    tokenizer = AutoTokenizer.from_pretrained(job.base)
    examples = read_records(job.examples, Example)
    encoded = encode_examples(examples, tokenizer, job.style, job.end_of_turn, job.train.max_length)
    steps = total_steps(len(encoded.sequences), job.train)
    with memory_explained(functools.partial(explain_no_room, job.train, ranks.world, "the model was loaded")):
        model, dtype = _load(job, ranks), _written_dtype(job, ranks)
    with _metrics(job.folder, ranks) as append:

        def note(row: Mapping[str, Any]) -> None:
            if ranks.first:
                append(row)
                report(row)

        def save(step: int) -> None:
            save_candidate(model, tokenizer, job.end_of_turn, candidate_folder(job.folder, step), ranks, dtype)
            note({"step": step, "candidate": 1})

        if ranks.first:
            begun(resume_step(job.folder), steps)
        reached = train(
            model,
            encoded.sequences,
            job.train,
            seed=job.seed,
            folder=job.folder,
            ranks=ranks,
            weights=job.base if ranks.world > 1 else None,
            stop=stop,
            until_step=job.until_step,
            save=save,
            report=lambda row: note(asdict(row)),
            say=say if ranks.first else lambda line: None,
            progress=progress and ranks.first,
        )
    dropped = {"too_long": encoded.too_long, "no_target": encoded.no_target}
    counts = {"step": reached, "steps": steps, "examples": len(encoded.sequences), **dropped}
    return counts | {"supervised_tokens": encoded.num_targets * job.train.epochs, "processes": ranks.world, **machine()}


def _load(job: TrainingJob, ranks: Ranks) -> PreTrainedModel:
    """The model to train: whole, or without memory for its weights where several processes are to share them."""
    import torch

    if ranks.world > 1:
        return empty_model(job.base, torch.bfloat16 if job.train.weights == "bf16" else torch.float32)
    return load_model(job.base, "bfloat16" if job.train.weights == "bf16" else "float32")


def _written_dtype(job: TrainingJob, ranks: Ranks) -> torch.dtype:
    """What candidates are written in: bfloat16 if that is what they were computed in."""
    import torch

    used = (resolve_precision(job.train.precision, ranks.device.type), job.train.weights)
    return torch.bfloat16 if "bf16" in used else torch.float32


@contextlib.contextmanager
def _metrics(folder: Path, ranks: Ranks) -> Iterator[Report]:
    """Adds rows to metrics.jsonl, cut back to where the training resumes; only the first process has the file."""
    if not ranks.first:
        yield lambda row: None
        return
    with MetricsFile(folder, resume_step(folder)) as metrics:
        yield metrics.append


def main(path: Path) -> int:
    """Runs this process's part of a job, and leaves what became of it beside the job's file. Returns the exit code.

    An error that starting again would not mend is left there too: the parent then ends the others and does not restart them.
    """
    job, outcome = read_job(path), path.with_name(OUTCOME)
    with stop_requests(patient=True) as stop:
        _obey_parent(stop)
        with open_ranks() as ranks:
            try:
                counts = _run_child(job, ranks, stop, outcome)
            except Requeue as ended:
                if ranks.first:
                    write_json(outcome, {"kind": "requeue", "text": str(ended)})
            except (TrainingError, DataError) as error:
                write_json(path.with_name(FAILED.format(rank=ranks.rank)), {"text": str(error)})
                os._exit(1)  # the others may wait for this one in a collective, and taking leave of them could wait, too
            else:
                if ranks.first:
                    write_json(outcome, {"kind": "done", "counts": counts})
    return 0


def _run_child(job: TrainingJob, ranks: Ranks, stop: StopRequest, outcome: Path) -> dict[str, Any]:
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if restarts and ranks.first:
        _say(f"the training restarts by itself (restart {restarts}); it goes on from step {resume_step(job.folder)}")
    return run_rank(
        job,
        ranks,
        stop,
        report=lambda row: None,
        say=_say,
        begun=lambda done, steps: write_json(outcome, {"kind": "running", "done": done, "steps": steps}),
    )


def _say(line: str) -> None:
    """Tells the parent something to say; what libraries print has no such mark."""
    sys.stdout.write(f"{SAYS}{line}\n")  # in one piece: print would let another process's words in before the end of the line
    sys.stdout.flush()


def _obey_parent(stop: StopRequest) -> None:
    """Listens to the parent through stdin, which torchrun and srun hand on: a byte asks to end, its end means the parent is gone.

    Several processes share one stdin; whichever reads the byte tells the others after its micro-batch.
    """

    def listen() -> None:
        while os.read(sys.stdin.fileno(), 1):
            stop.ask()
        os._exit(1)

    threading.Thread(target=listen, name="parent", daemon=True).start()


if __name__ == "__main__":
    leave(main(Path(sys.argv[1])))
