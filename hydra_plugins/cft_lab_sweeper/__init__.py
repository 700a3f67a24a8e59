"""Hydra's plugin for `python run.py -m`: what it does is in cft_lab. (No __init__.py beside this folder: Hydra wants it so.)"""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class CellSweeper(Sweeper):
    """Composes and checks all cells before any starts, and makes their distinct stages once; see cft_lab/sweeps."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keeps what Hydra hands over; cells are no jobs of Hydra, so that the task function is not called."""
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = None

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the cells of a command line; `arguments` are its overrides, less those for Hydra itself."""
        from cft_lab.cli import run_sweep

        assert self.config is not None
        return run_sweep(arguments, list(self.config.hydra.overrides.hydra))
