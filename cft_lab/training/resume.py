"""Resume states: everything that a training needs to go on after a kill as if nothing had happened.

A state holds the weights and the optimizer's moments (torch.distributed.checkpoint, each process writing its share) and every
process's random number generators; learning rate and order of the data are functions of the step, and no figure that is shown
spans steps, so there is nothing else to keep. It lies in `<folder>/resume/step-N/`, is made under another name, synced and
renamed, and ends with an index of its files and their sizes. The last two are kept. A state can be loaded by another number of
processes than saved it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cft_lab.json_files import read_json
from cft_lab.training.faults import TrainingError, causes_of, out_of_memory
from cft_lab.training.optimizers import as_compiled_as_pays
from cft_lab.training.ranks import Ranks, one_process_is_meant
from cft_lab.training.writing import cause_in_words, sync

if TYPE_CHECKING:
    import torch

STATES = "resume"  # the folder of a training's states
INDEX = "index.json"  # of a state: step, processes, whether there are moments, size of each file in bytes; written last
KEPT = 2
#: what torch says, as a mere RuntimeError or ValueError, of files that it cannot write, or that do not hold what is wanted
_WRITING = ("PytorchStreamWriter", "inline_container")
_READING = ("PytorchStreamReader", "inline_container", "Missing key in checkpoint", "Size mismatch")


def save_resume(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks, step: int) -> None:
    """Writes the state after optimizer step `step` and lets go of all but the last two.

    Every process calls it. Raises TrainingError if it cannot be written, a full disk above all; earlier states stay as they are.
    With several processes, what is no error of writing (one of them died) is raised as it is.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    final = _state(folder, step)
    made = final.with_suffix(".tmp")
    tensors = {"model": _weights(model), "optimizer": _moments(model, optimizer)["state"] if optimizer.state else {}}
    try:
        if ranks.first:
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir(parents=True)
        ranks.barrier()
        _write_tensors(made, tensors, ranks)
        _write_synced(_rng_file(made, ranks.rank), _random_state())
        ranks.barrier()
        if ranks.first:
            sizes = {file.name: file.stat().st_size for file in sorted(made.iterdir())}
            _write_synced(made / INDEX, {"step": step, "world": ranks.world, "moments": bool(optimizer.state), "sizes": sizes})
    except (CheckpointException, OSError, RuntimeError) as error:
        if not _is_ours(error, ranks, _WRITING):
            raise  # memory ran out; or another process died, which its launcher mends by starting all again
        if ranks.first:
            shutil.rmtree(made, ignore_errors=True)
        raise TrainingError(_cannot_save(folder, step, tensors, error)) from error
    if ranks.first:
        sync(made)
        shutil.rmtree(final, ignore_errors=True)
        made.rename(final)
        sync(final.parent)
        for old in _states(folder)[:-KEPT]:
            shutil.rmtree(old)


def load_resume(
    folder: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    ranks: Ranks,
    seed: int,
    say: Callable[[str], None],
) -> int:
    """Restores the newest whole state in place and returns its step; 0, with random numbers by the seed, if there never was one.

    Every process calls it. A state with a missing or truncated file is passed over, and `say` is told which file of which state it
    was. Raises TrainingError if states are there and none is whole.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    step = ranks.from_first(_newest(folder, say) if ranks.first else 0)
    if ranks.first:
        for left in [state for state in _states(folder) if _step(state) > step] + list((folder / STATES).glob("*.tmp")):
            shutil.rmtree(left)
    if step == 0:
        _seed_all(seed, 0, ranks.rank)
        return 0
    state = _state(folder, step)
    index = read_json(state / INDEX)
    moments = _moments(model, optimizer) if index["moments"] else {"state": {}}
    tensors = {"model": _weights(model), "optimizer": moments["state"]}
    try:
        with one_process_is_meant():
            load(tensors, storage_reader=FileSystemReader(state), no_dist=ranks.world == 1)
    except CheckpointException as error:
        if not _is_ours(error, ranks, _READING):
            raise
        raise TrainingError(
            f"the resume state {state}, saved by {index['world']} processes, could not be loaded by {ranks.world}. Go on with as "
            f"many as saved it, or delete {folder / STATES} to train from the beginning. {error}"
        ) from error
    if index["moments"]:
        set_optimizer_state_dict(model, optimizer, moments)
    if index["world"] == ranks.world:
        _set_random_state(read_json(_rng_file(state, ranks.rank)))
    else:
        _seed_all(seed, step, ranks.rank)
        if ranks.first:
            say(
                f"the resume state of step {step} was saved by {index['world']} processes and goes on in {ranks.world}: "
                "their random numbers are drawn anew from the seed"
            )
    return step


def resume_step(folder: Path) -> int:
    """The optimizer step that a run in `folder` would resume after; 0 if it would start from the beginning.

    Raises TrainingError if states are there and none is whole.
    """
    return _newest(folder, lambda line: None)


def discard_resume(folder: Path) -> None:
    """Removes the resume states of a finished training."""
    shutil.rmtree(folder / STATES, ignore_errors=True)


def _newest(folder: Path, say: Callable[[str], None]) -> int:
    """The step of the newest whole state."""
    found: list[str] = []
    for state in reversed(_states(folder)):
        damage = _damage(state)
        if damage is None:
            for line in found:
                say(f"{line}; training goes on from the state of step {_step(state)}")
            return _step(state)
        found.append(f"resume state {state} is not whole: {damage}")
    if found:
        raise TrainingError(
            "; ".join(found)
            + f". No whole state is left to go on from: restore the file, or delete {folder / STATES} to train from "
            "the beginning"
        )
    return 0


def _damage(state: Path) -> str | None:
    """What is wrong with a state, naming the file; None if it is whole."""
    try:
        sizes: dict[str, int] = read_json(state / INDEX)["sizes"]
    except FileNotFoundError:
        return f"{INDEX} is missing"
    except (ValueError, KeyError, TypeError):
        return f"{INDEX} cannot be read"
    return wrong_size(state, sizes)


def wrong_size(folder: Path, sizes: dict[str, int]) -> str | None:
    """The first file of a folder that is missing or has another size in bytes than recorded, in words; None if all are right."""
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size:,} of {size:,} bytes"
    return None


def _states(folder: Path) -> list[Path]:
    """The finished states of a training, oldest first."""
    return sorted(path for path in (folder / STATES).glob("step-*") if path.suffix != ".tmp")


def _state(folder: Path, step: int) -> Path:
    return folder / STATES / f"step-{step:08d}"


def _step(state: Path) -> int:
    return int(state.name.removeprefix("step-"))


def _rng_file(state: Path, rank: int) -> Path:
    return state / f"rng-{rank}.json"


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter by name, tied ones once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _moments(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state by parameter name; a fresh optimizer makes it by a step of nothing, so that there is room to load."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    with as_compiled_as_pays(optimizer):
        return get_optimizer_state_dict(model, optimizer)


def _write_tensors(made: Path, tensors: dict[str, Any], ranks: Ranks) -> None:
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    with one_process_is_meant():
        save(tensors, storage_writer=FileSystemWriter(made, sync_files=True), no_dist=ranks.world == 1)


def _cannot_save(folder: Path, step: int, tensors: dict[str, Any], error: BaseException) -> str:
    states = _states(folder)
    if states:
        stays = f"the state of step {_step(states[-1])} stays"
        needed = sum(file.stat().st_size for file in states[-1].iterdir())
    else:
        stays, needed = "there is no earlier one", _num_bytes(tensors)
    return (
        f"the resume state of step {step} could not be written to {folder / STATES}: "
        f"{cause_in_words(causes_of(error), needed, folder)}; {stays}. Free some space and run the same command again"
    )


def _is_ours(error: BaseException, ranks: Ranks, sayings: tuple[str, ...]) -> bool:
    """Whether an error is one of files, by its type or by one of `sayings`, and not that memory ran out or another process is gone.

    A process alone has no others.
    """
    if out_of_memory(error):
        return False
    return ranks.world == 1 or any(
        any(saying in str(cause) for saying in sayings)
        if not isinstance(cause, OSError)
        else not isinstance(cause, (ConnectionError, TimeoutError))
        for cause in causes_of(error)
    )


def _num_bytes(tensors: dict[str, Any]) -> int:
    """Bytes of all tensors of a state, over all processes."""
    import torch
    from torch.utils._pytree import tree_leaves

    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(tensors) if isinstance(leaf, torch.Tensor))


def _random_state() -> dict[str, Any]:
    """This process's random number generators: Python's, numpy's, torch's on CPU and on its GPU."""
    import numpy as np
    import torch

    version, words, place = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), place],
        "numpy": [kind, [int(key) for key in keys], *(float(value) if isinstance(value, float) else int(value) for value in rest)],
        "torch": torch.get_rng_state().tolist(),
        "cuda": torch.cuda.get_rng_state().tolist() if torch.cuda.is_available() else None,
    }


def _set_random_state(state: dict[str, Any]) -> None:
    import numpy as np
    import torch

    version, words, place = state["python"]
    random.setstate((version, tuple(words), place))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8))


def _seed_all(seed: int, step: int, rank: int) -> None:
    """Seeds every generator of this process by where it stands."""
    import numpy as np
    import torch

    drawn = int(np.random.default_rng([seed, step, rank]).integers(2**32))
    random.seed(drawn)
    np.random.seed(drawn)
    torch.manual_seed(drawn)  # the GPU's too


def _write_synced(path: Path, value: Any) -> None:
    """Writes JSON through to the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value))
        file.flush()
        os.fsync(file.fileno())
