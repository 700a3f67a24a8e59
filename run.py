"""Runs one cell, or with -m a grid of cells: `python run.py method=cft`, `python run.py -m method=base,cft seed=0,1`."""

import hydra
from omegaconf import DictConfig

from cft_lab.cli import guarded, run_cell
from cft_lab.hydra_config import register
from cft_lab.records import Result

register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> Result | str | None:
    """Checks the composed cell, makes what is missing of it and returns its result (or why it was refused; none of a preflight)."""
    return run_cell(config)


if __name__ == "__main__":
    guarded(main)
