"""Fixtures: the real config shrunk to seconds, and one store with a tiny base model that all tests share."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", WANDB_SILENT="true")

import pytest
from cells import DEBUG, SHARED_DATA

from cft_lab.config import Config
from cft_lab.hydra_config import compose

ComposeCell = Callable[..., Config]


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> Iterator[None]:
    """A shell starts background jobs deaf to Ctrl-C, and tests that type it would wait for ever in such a suite."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that the session shares: what one test made, others reuse, as in real life."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def cell(shared_store: Path) -> ComposeCell:
    """Composes the debug cell with further overrides, in the shared store unless told otherwise."""

    def composed(*overrides: str) -> Config:
        return compose(*DEBUG, f"output_root={shared_store}", *overrides)

    return composed


@pytest.fixture(scope="session")
def debug_model(shared_store: Path) -> Path:
    """The folder of the pretrained debug model."""
    from cft_lab import stages
    from cft_lab.store import Store

    config = compose(*DEBUG, f"output_root={shared_store}")
    return Store(shared_store, lambda line: None).ensure(stages.base_model(config)) / "model"


@pytest.fixture
def shared_rows() -> Callable[[str], Iterator[dict[str, object]]]:
    """Reads real rows that lie beside the checkout on some machines; skips the test where they do not."""

    def rows(name: str) -> Iterator[dict[str, object]]:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"{path} is not on this machine")
        with path.open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file)

    return rows


@pytest.fixture
def own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is read from, or written to, the caches of whoever runs the tests."""
    import datasets

    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache / "datasets"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
    return cache
