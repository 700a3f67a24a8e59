"""The tiny model that every engine can load."""

from __future__ import annotations

from pathlib import Path

import pytest

from cft_lab.hydra_config import compose


@pytest.fixture(scope="session")
def tiny_model(shared_store: Path) -> Path:
    """The debug model with one attention head: vLLM on a CPU has no kernel for heads narrower than 32."""
    from cft_lab import stages
    from cft_lab.store import Store

    config = compose("model=lab-debug", "model.lab.heads=1", "progress=false")
    return Store(shared_store, lambda line: None).ensure(stages.base_model(config)) / "model"
