"""The generations stage of a model behind an API: what it counts and what it cost, over all its runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from engines.api.loopback import Loopback, serving

from cft_lab import pipeline
from cft_lab.config import Config
from cft_lab.evaluation.benchmarks import load_items
from cft_lab.json_files import read_json, read_records
from cft_lab.records import Generation
from cft_lab.stages import GENERATIONS
from cft_lab.stages.api import OBSERVED
from cft_lab.store import Store

ITEMS = 6
PRICED = ("+prices.input_usd={loopback-1: 100}", "+prices.output_usd={loopback-1: 1000}")


@pytest.fixture
def asked(cell: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    """Composes the evaluation of a model behind a server, drawn at temperature 1, in a store of its own."""

    def composed(running: Loopback, *overrides: str) -> Config:
        return cell(
            *("model=gpt-4o", "method=base", "model.api_model=loopback-1", "temperature=1", "engine.api_key_env=null"),
            *(f"engine.base_url={running.url}", "engine.timeout_s=5", "engine.max_retries=1"),
            *("benchmarks.names=[lab-basic]", f"benchmarks.items={ITEMS}", f"output_root={tmp_path}", *overrides),
        )

    return composed


def test_dollars_are_those_of_all_requests(asked: Callable[..., Config], tmp_path: Path) -> None:
    """Of looks at the server, of attempts without a text, of rows that fail and are asked again."""
    failing = load_items("lab-basic", ITEMS)[3].question
    with serving(always={failing: "no-choices"}) as server:
        config = asked(server, *PRICED)
        stage = pipeline.plan(config).result.upstream["lab-basic"].upstream["generations"]
        store = Store(tmp_path, lambda line: None)
        with pytest.raises(RuntimeError, match="1 prompts of lab-basic failed"):
            store.ensure(stage)
        first = read_json(store.folder(stage).with_suffix(".partial") / OBSERVED)
        server.change(always={})
        folder = store.ensure(stage)
    second = read_json(folder / OBSERVED)
    counts = store.manifest(stage)["counts"]
    rows = [turn.completion for row in read_records(folder / GENERATIONS, Generation) for turn in row.turns]
    assert counts["prompt_tokens"] == sum(row.prompt_tokens or 0 for row in rows) > 0
    assert counts["cost_usd"] == pytest.approx(first["cost_usd"] + second["cost_usd"], abs=2e-6)
    assert counts["cost_usd"] > sum(row.cost_usd or 0.0 for row in rows)


def test_unknown_prices_stay_unknown(asked: Callable[..., Config], tmp_path: Path) -> None:
    with serving() as server:
        stage = pipeline.plan(asked(server)).result.upstream["lab-basic"].upstream["generations"]
        store = Store(tmp_path, lambda line: None)
        store.ensure(stage)
    assert store.manifest(stage)["counts"]["cost_usd"] is None
