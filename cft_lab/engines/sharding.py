"""Engines in processes of their own, one for each GPU (or group of GPUs), that share the prompts of a call.

Which process gets a prompt depends on the prompt's place alone, every text on its prompt and seed alone: in float32 the texts do
not depend on the number of processes. A process that dies ends the call with an error that names it; it is never waited for.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from cft_lab.config import DataError, EngineConfig
from cft_lab.engines.base import Engine, Prompt
from cft_lab.records import Completion, Sampling

if TYPE_CHECKING:
    from cft_lab.engines.local import TransformersEngine

_END_S = 20.0  # for a process to end by itself before it is killed

#: what a shard says: a completion and its prompt's place in the share, None when it is through, or why it failed
Said: TypeAlias = tuple[int, Completion] | DataError | str | None


class FolderEngine(Engine, Protocol):
    """An engine over a model folder that can go on with another folder."""

    def swap(self, folder: Path) -> None:
        """Goes on with another model of the same shape."""
        ...


@dataclass(frozen=True)
class ModelFolder:
    """A model and how it is asked."""

    folder: Path
    style: str  # a PromptFormat.style
    end_of_turn: str  # the token that ends an answer


@dataclass(frozen=True)
class Shard:
    """A process, its end of the line, and what to call it in messages."""

    name: str
    process: BaseProcess
    line: Connection


class ShardError(RuntimeError):
    """A shard failed or died; what was generated before has been handed out."""


def _start(model: ModelFolder, config: EngineConfig) -> FolderEngine:
    """The engine in this process."""
    if config.kind != "vllm":
        return _start_local(model, config)
    from cft_lab.engines.vllm import VllmEngine

    return VllmEngine(model.folder, config, style=model.style, end_of_turn=model.end_of_turn)


def _start_local(model: ModelFolder, config: EngineConfig) -> TransformersEngine:
    from cft_lab.engines.local import TransformersEngine

    return TransformersEngine(
        model.folder,
        style=model.style,
        end_of_turn=model.end_of_turn,
        batch_size=config.batch_size,
        precision=config.precision,
        cpu_threads=config.cpu_threads,
        max_model_len=config.max_model_len,
    )


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; CUDA is not started for it."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(place) for place in range(count)]


def gpus_of_a_model(config: EngineConfig) -> int:
    """The GPUs that one model is spread over, 1 where it is on one GPU or on the CPU."""
    return config.tensor_parallel if config.kind == "vllm" else 1


def gpu_groups(gpus: Sequence[str], config: EngineConfig) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each shard: `engine.shards` of them, or as many as the GPUs allow; one on a CPU.

    Raises DataError if the GPUs do not suffice.
    """
    size = gpus_of_a_model(config)
    if not gpus and size == 1:
        return [""] * (config.shards or 1)
    groups = [",".join(gpus[first : first + size]) for first in range(0, len(gpus) - size + 1, size)]
    if len(groups) < (config.shards or 1):
        raise DataError(
            f"engine.tensor_parallel={config.tensor_parallel} and engine.shards={config.shards} need "
            f"{size * (config.shards or 1)} GPUs, and {len(gpus)} are visible here: lower them, or run where there are more"
        )
    return groups[: config.shards]


def open_model(model: ModelFolder, config: EngineConfig) -> AbstractContextManager[FolderEngine]:
    """The engine over a model folder, to be used as a context manager: in this process if it is one transformers engine on a CPU.

    A process that used a GPU keeps some of its memory for as long as it lives, so on GPUs each engine has its own.

    Raises DataError if the visible GPUs do not suffice.
    """
    groups = gpu_groups(visible_gpus(), config)
    here = config.kind != "vllm" and groups == [""]
    return _start_local(model, config) if here else Shards(model, config, groups)


class Shards:
    """An `Engine` whose prompts are shared by processes. Use as a context manager: leaving it ends them, which frees their GPUs."""

    def __init__(self, model: ModelFolder, config: EngineConfig, groups: Sequence[str]) -> None:
        """`groups` has the CUDA_VISIBLE_DEVICES of each process. They are started by the first call that needs them."""
        self._model, self._config, self._groups = model, config, groups
        self._shards: list[Shard] = []

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def swap(self, folder: Path) -> None:
        """Goes on with another model of the same shape: in the same processes where that is possible."""
        from cft_lab.engines import vllm

        self._model = ModelFolder(folder, self._model.style, self._model.end_of_turn)
        if self._config.kind == "vllm" and not vllm.swaps(folder):
            self._stop()
        for shard in self._shards:
            _send(shard, folder)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        """See `Engine.generate`. Raises ShardError."""
        if not self._shards:
            self._shards = [self._start(place) for place in range(len(self._groups))]
        shares = [range(place, len(prompts), len(self._shards)) for place in range(len(self._shards))]
        whole = False
        try:
            for shard, share in zip(self._shards, shares, strict=True):
                _send(shard, ([prompts[i] for i in share], sampling))
            yield from self._collect(shares)
            whole = True
        finally:
            if not whole:  # given up, interrupted or broken: what the processes still send belongs to nothing
                self._stop(at_once=True)

    def _collect(self, shares: Sequence[range]) -> Iterator[tuple[int, Completion]]:
        """Completions of all shards as they come, until each has said that it is through."""
        open_lines = {shard.line: (shard, share) for shard, share in zip(self._shards, shares, strict=True)}
        while open_lines:
            for line in wait(list(open_lines)):
                assert isinstance(line, Connection)
                shard, share = open_lines[line]
                said = _receive(shard)
                if said is None:
                    del open_lines[line]
                elif isinstance(said, DataError):
                    raise said
                elif isinstance(said, str):
                    raise ShardError(f"{shard.name} failed:\n{said}")
                else:
                    place, completion = said
                    yield share[place], completion

    def _start(self, place: int) -> Shard:
        context = multiprocessing.get_context("spawn")  # a forked child could not use CUDA
        ours, theirs = context.Pipe()
        gpus = self._groups[place]
        process = context.Process(target=_serve, args=(theirs, self._model, self._config, gpus), name=f"shard {place}")
        process.start()
        theirs.close()  # so that the line breaks when the process dies
        where = f"GPU {gpus}" if gpus else "CPU"
        return Shard(f"generation shard {place + 1} of {len(self._groups)} ({where}, process {process.pid})", process, ours)

    def _stop(self, at_once: bool = False) -> None:
        shards, self._shards = self._shards, []
        for shard in shards:
            shard.line.close()  # an idle process sees this and ends
            if at_once:
                shard.process.terminate()
        for shard in shards:
            shard.process.join(_END_S)
            if shard.process.is_alive():
                shard.process.kill()
                shard.process.join()
            shard.process.close()


def _send(shard: Shard, what: tuple[list[Prompt], Sampling] | Path) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is dead: the next receive says so
        shard.line.send(what)


def _receive(shard: Shard) -> Said:
    """What a shard says next. Raises ShardError if it died."""
    try:
        said: Said = shard.line.recv()
    except (EOFError, ConnectionResetError):
        shard.process.join(_END_S)
        code = shard.process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        raise ShardError(
            f"{shard.name} died with {how}; out of memory is the usual cause (lower engine.batch_size or "
            "engine.gpu_memory_utilization). What was generated stays: run the same command again to go on"
        ) from None
    return said


def _serve(line: Connection, model: ModelFolder, config: EngineConfig, gpus: str) -> None:
    """A shard's life: prompts and folders in, completions out, until the line is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent decides what to do
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone or does not want more
        try:
            engine = _start(model, config)
            while True:
                wanted = line.recv()
                if isinstance(wanted, Path):
                    engine.swap(wanted)
                    continue
                for row in engine.generate(*wanted):
                    line.send(row)
                line.send(None)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except DataError as error:
            line.send(error)
        except Exception:
            line.send(traceback.format_exc())
