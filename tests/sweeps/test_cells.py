"""Sweep files: what the real ones hold, what a strange one is told, and what a command line makes of them."""

from collections import Counter
from pathlib import Path

import hydra
import pytest
from sweep_tools import FIVE, asked, composed, sweep_file

from cft_lab.config import ConfigError
from cft_lab.hydra_config import Composer, initialized, sweep_names, to_config
from cft_lab.published import published_values
from cft_lab.sweeps.cells import read_sweep
from cft_lab.sweeps.expand import expand

SIZES = {"table2": 15, "table3": 14, "table4": 4, "table5": 6, "table6": 3, "table7": 3, "table8": 10, "figure1": 4}
LAB = {f"lab/{name}": SIZES[name] for name in FIVE}
BENCHMARKS = {"GPQA": "gpqa-diamond"}  # of the printed names, the one that is not ours in capitals


@pytest.mark.parametrize(("name", "size"), [*SIZES.items(), *LAB.items()])
def test_each_table_has_its_cells(name: str, size: int) -> None:
    sweep = read_sweep(name)
    assert len(sweep.cells) == size
    assert sweep.caption
    assert all(cell.row or cell.column for cell in sweep.cells)


def test_the_files_are_these() -> None:
    assert set(sweep_names()) == {*SIZES, *LAB, "lab/learning-rate", "lab/rehearsal"}  # the last two: why the lab study came out so


@pytest.mark.parametrize("table", [2, 5, 6, 7, 8])
def test_every_published_value_belongs_to_exactly_one_cell_and_averages_are_macro_averages(table: int) -> None:
    """A difference that the paper prints is no cell: it follows from two, and published.csv has none."""
    cells = composed(f"sweeps=table{table}")
    printed: dict[tuple[str, ...], dict[str, float]] = {}
    for value in published_values(table):
        printed.setdefault((value.model, value.method, value.data, value.condition), {})[value.benchmark] = value.value
    answers = [tuple((cell.published or {}).values()) for cell, _ in cells]
    assert Counter(answers) == Counter(list(printed))
    for (_, config), row in zip(cells, answers, strict=True):
        values = {BENCHMARKS.get(name, name.lower()): value for name, value in printed[row].items()}
        average = values.pop("avg", None)
        assert list(values) == config.benchmarks.names
        assert average is None or sum(values.values()) / len(values) == pytest.approx(average, abs=0.051)
    assert (table == 8) == ("AVG" not in next(iter(printed.values())))


@pytest.mark.parametrize("table", [3, 4])
def test_released_models_answer_to_their_printed_rows(table: int) -> None:
    printed = {(value.model, value.method, value.data, value.condition) for value in published_values(table)}
    answered = [tuple(cell.published.values()) for cell in read_sweep(f"table{table}").cells if cell.published]
    assert len(answered) == len(set(answered))
    assert set(answered) <= printed
    missing = {model for model, *_ in printed - set(answered)}
    assert missing == ({"GPT-o1-mini", "rStar-Math@Greedy"} if table == 3 else set())


GOOD = "caption: c\ncommon: {model: lab-debug}\ngrids:\n  - {method: [base, sft], data: [lab-web, lab-forum]}\n"


def test_a_union_of_grids_cells_zip_and_exclude(tmp_path: Path) -> None:
    text = (
        "caption: c\nbenchmarks: lab\ncommon: {model: lab-debug}\n"
        "grids:\n"
        "  - {method: [sft, cft], data: [lab-web, lab-forum]}\n"
        "  - {method: [cft], zip: {inference: [single-pass, two-stage], temperature: [0.1, 0.30]}}\n"
        "cells:\n  - {method: base}\n"
        "exclude:\n  - {method: sft, data: lab-forum}\n"
        "labels:\n  - {where: {method: sft}, row: sft}\n  - {where: {method: cft}, row: cft}\n"
        "  - {where: {method: [base, sft-teacher]}, row: base}\n"
        "  - {where: {data: lab-web}, column: web}\n  - {where: {data: lab-forum}, column: forum}\n"
        "  - {where: {inference: single-pass}, column: one}\n  - {where: {inference: two-stage}, column: two}\n"
        "  - {where: {method: sft}, published: {condition: {b: 2, a: 1}}}\n"
    )
    cells = read_sweep("mine", sweep_file(tmp_path, text)).cells
    told = [(" ".join(f"{name}={value}" for name, value in cell.overrides.items()), cell.row, cell.column) for cell in cells]
    common = "benchmarks=lab model=lab-debug"
    assert told == [
        (f"{common} method=sft data=lab-web", "sft", "web"),
        (f"{common} method=cft data=lab-web", "cft", "web"),
        (f"{common} method=cft data=lab-forum", "cft", "forum"),
        (f"{common} method=cft inference=single-pass temperature=0.1", "cft", "one"),
        (f"{common} method=cft inference=two-stage temperature=0.30", "cft", "two"),
        (f"{common} method=base", "base", ""),
    ]
    assert cells[0].published == {"model": "", "method": "", "data": "", "condition": "b=2;a=1"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", ["the file", "no mapping"]),
        ("a: [\n", ["is not YAML"]),
        ("caption: c\n", ["it has no cells", "grids or cells"]),
        (GOOD + "grid: []\n", ["'grid' is unknown", "grids"]),
        (GOOD + "caption: d\n", ["'caption' is given twice"]),
        (GOOD + "table: two\n", ["table", "is no number"]),
        (GOOD + "benchmarks: [lab]\n", ["benchmarks", "not one value"]),
        ("grids:\n  - {method: sft}\n", ["grids[0].method", "'sft' is no list of values: write [sft]"]),
        ("grids:\n  - {method: []}\n", ["grids[0].method", "no list of values"]),
        ("grids:\n  - {}\n", ["grids[0] is empty"]),
        ("grids: {method: [sft]}\n", ["grids", "is no list", "dash"]),
        ("grids:\n  - {zip: {method: [sft, cft], seed: [0]}}\n", ["grids[0].zip", "method has 2, seed has 1"]),
        ("grids:\n  - {method: [sft], zip: {method: [cft]}}\n", ["grids[0]", "method is set already"]),
        ("common: {method: sft}\ngrids:\n  - {method: [cft]}\n", ["grids[0]", "method is set already ('sft')"]),
        ("cells:\n  - {method: [sft]}\n", ["cells[0].method", "not one value"]),
        ("cells:\n  - {method: sft}\n  - {method: sft}\n", ["cells[1]", "method=sft is in cells[0] already"]),
        (GOOD + "cells:\n  - {data: lab-web, method: sft}\n", ["cells[0]", "is in grids[0] already"]),
        (GOOD + "exclude:\n  - {method: cft}\n", ["exclude[0]", "excludes nothing"]),
        (GOOD + "exclude:\n  - {}\n", ["exclude[0] is empty"]),
        (GOOD + "exclude:\n  - {model: lab-debug}\n", ["it has no cells"]),
        (GOOD + "labels:\n  - {where: {method: cft}, row: a}\n", ["labels[0]", "fits no cell"]),
        (GOOD + "labels:\n  - {where: {method: sft}, rows: a}\n", ["labels[0]", "'rows' is unknown", "row, column"]),
        (GOOD + "labels:\n  - {where: {method: sft}, published: {table: 2}}\n", ["labels[0].published", "'table' is unknown"]),
        (
            GOOD + "labels:\n  - {where: {method: sft}, row: a}\n  - {where: {data: lab-web}, row: b}\n",
            ["labels[1]", "method=sft data=lab-web", "row is set already ('a')"],
        ),
        (GOOD + "labels:\n  - {where: {method: sft}, row: a}\n", ["stand at the same place", "row 'a'"]),
        (GOOD + "deltas:\n  - {first: {method: cft}, rivals: {method: sft}}\n", ["deltas[0]", "no group of cells"]),
        (GOOD + "deltas:\n  - {first: {method: sft}, rivals: {method: base}}\n", ["deltas[0]", "first must be one cell"]),
        (GOOD + "deltas:\n  - {by: [data], first: {method: sft}, rivals: {method: [sft, base]}}\n", ["none of its rivals"]),
        (GOOD + "deltas:\n  - {first: {method: sft}}\n", ["deltas[0].rivals is empty"]),
        (GOOD + "deltas:\n  - {minus: {method: sft}}\n", ["deltas[0]", "'minus' is unknown", "label, by, first, rivals"]),
    ],
)
def test_a_strange_file_is_refused_by_file_place_and_remedy(text: str, said: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read_sweep("mine", sweep_file(tmp_path, text))
    assert str(refused.value).startswith(f"{tmp_path / 'mine.yaml'}, ")
    for part in said:
        assert part in str(refused.value)


def test_an_unknown_sweep_file_lists_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sweeps=table22 is not a sweep file: choose from .*lab/table2, .*table2"):
        asked("sweeps=table22")
    with pytest.raises(ConfigError, match="sweeps=table22 is not"):
        asked("sweeps=table2,table22")
    with pytest.raises(ConfigError, match=str(tmp_path / "x.yaml")):
        read_sweep("x", sweep_file(tmp_path, GOOD))


def test_overrides_of_the_command_line_multiply_every_sweep() -> None:
    cells = asked("sweeps=lab/table6,lab/table7", "seed=0,1", "train.lr=range(1,4)", "progress=false")
    assert len(cells) == (3 + 3) * 2 * 3
    first = cells[0]
    assert first.overrides == ("benchmarks=lab", "model=lab-qwen2", "method=base", "seed=0", "train.lr=1", "progress=false")
    assert (first.sweep, first.row, first.label) == ("lab/table6", "Base", "Base train.lr=1")
    assert {cell.label for cell in cells if cell.sweep == "lab/table7"} == {
        f"{row} train.lr={lr}" for row in ("SFT-verified", "CFT, weak oracle", "CFT, oracle") for lr in (1, 2, 3)
    }


def test_the_command_line_wins_where_cells_agree_and_is_refused_where_they_differ() -> None:
    assert all("model=lab-debug" in cell.overrides for cell in asked("sweeps=lab/table7", "model=lab-debug"))
    assert not any("model=lab-qwen2" in cell.overrides for cell in asked("sweeps=lab/table7", "model=lab-debug"))
    with pytest.raises(ConfigError, match="method=sft on the command line, but method is what the cells of sweeps/lab/table2.yaml"):
        asked("sweeps=lab/table2", "method=sft")


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        (["method=cft,sft", "seed=0,1"], ["method=cft", "method=cft", "method=sft", "method=sft"]),
        (["temperature=choice(0.1,0.5)", "method=base"], ["temperature=0.1", "temperature=0.5"]),
        (["data=glob(lab-*,exclude=lab-t*)"], ["data=lab-forum", "data=lab-web"]),
        (["seed=range(3)"], ["the cell"] * 3),
        (["method=sft"], ["method=sft"]),
    ],
)
def test_a_plain_grid_is_what_hydra_makes_of_it(arguments: list[str], labels: list[str]) -> None:
    assert [cell.label for cell in asked(*arguments)] == labels


def test_sweep_files_are_chosen_by_pattern_too() -> None:
    assert Counter(cell.sweep for cell in asked("sweeps=glob(lab/table*,exclude=*2)")) == {
        k: v for k, v in LAB.items() if k[-1] != "2"
    }


def test_a_continuous_range_is_no_list_of_cells() -> None:
    with pytest.raises(ConfigError, match="train.lr=interval"):
        asked("train.lr=interval(0,1)")


@pytest.mark.slow
def test_a_cell_is_composed_as_hydra_composes_it() -> None:
    choices = {tuple(item for item in cell.overrides if "." not in item): cell for cell in asked("sweeps=glob(**)")}
    cells = list(choices.values())  # of all sweep files, one for each choice of groups
    odd = (
        "model=lab-llama",
        "+data.lab.families.office=2.0",
        "data@mix_data=lab-forum",
        "benchmarks.names=[lab-long]",
        "train.lr=1e-4",
    )
    with initialized():
        asked_for = [*(cell.overrides for cell in cells), odd, ("seed=3", "model=lab-llama"), odd[:1]]
        plain = [to_config(hydra.compose("config", list(overrides))) for overrides in asked_for]
        compose = Composer()  # from here on Hydra's files are read once
        assert [compose(overrides) for overrides in asked_for] == plain
        assert [compose(overrides) for overrides in asked_for[:3]] == plain[:3]


def test_a_choice_that_others_make_by_themselves_costs_nothing_and_one_that_they_change_counts() -> None:
    paper = ("model=qwen2.5-7b",)  # brings its own data
    with initialized():
        compose = Composer()
        for overrides in ((), ("data=lab-web",), paper, (*paper, "data=lab-web"), ("data=lab-web", "responses=reference")):
            assert compose(overrides) == to_config(hydra.compose("config", list(overrides)))
        assert len({id(made) for made in compose._composed.values()}) == 3


def test_all_that_is_wrong_is_told_with_file_cell_and_field(tmp_path: Path) -> None:
    text = "caption: c\ngrids:\n  - {method: [sft, cft, csft], data.examples: [9000, 10]}\n"
    with pytest.raises(ConfigError) as refused:
        composed("sweeps=mine", "train.lr=7", "teacher=none", folder=sweep_file(tmp_path, text))
    told = "\n".join(refused.value.problems)
    for part in (
        "sweeps/mine.yaml, method=csft data.examples=9000",
        "method/csft",
        "sweeps/mine.yaml, method=sft data.examples=9000",
        "data.examples=9000 is more than data.pool=8000",
        "and 1 more cells: train.lr=7.0 is out of range",
        "method=cft needs a teacher",
    ):
        assert part in told, told
    assert len(refused.value.problems) == len(set(refused.value.problems))


def test_a_sweep_has_one_store_and_one_cluster() -> None:
    with pytest.raises(ConfigError, match="output_root=b differs from a"):
        composed("output_root=a,b")
    with pytest.raises(ConfigError, match="cluster differs"):
        composed("cluster.workers=1,2")


def test_delta_rows_are_made_for_each_value_of_by(tmp_path: Path) -> None:
    text = GOOD + "deltas:\n  - {label: SFT - Base, by: [data], first: {method: sft}, rivals: {method: base}}\n"
    sweep = read_sweep("mine", sweep_file(tmp_path, text))
    told = [
        (row.label, sweep.cells[row.first].overrides, [sweep.cells[rival].overrides for rival in row.rivals])
        for row in sweep.deltas
    ]
    assert told == [
        (
            "SFT - Base",
            {"model": "lab-debug", "method": "sft", "data": data},
            [{"model": "lab-debug", "method": "base", "data": data}],
        )
        for data in ("lab-web", "lab-forum")
    ]


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        ("seed=0,1", 20),
        ("train.lr=1e-6", 10),
        ("model=qwen2.5-math-7b", 10),
        ("model=qwen2.5-7b", 0),
        ("model=qwen2.5-math-7b,qwen2.5-7b", 10),
        ("data=numina", 0),  # not in the file, but in the printed rows
        ("model.hub_id=mine", 0),
        ("benchmarks=lab-table8", 0),
    ],
)
def test_a_cell_that_the_command_line_makes_another_answers_to_no_printed_row(override: str, kept: int) -> None:
    with initialized():
        request = expand(["sweeps=table8", override])
    assert sum(cell.published is not None for cell in request.cells) == kept
    assert bool(request.notes) == (kept < len(request.cells))
    for note in request.notes:
        assert override.rpartition(",")[2].rpartition("=")[2] in note
        assert "answer to no printed row" in note


def test_base_cells_keep_the_printed_row_that_names_no_data() -> None:
    cells = asked("sweeps=table2", "data=numina")
    assert {dict(part.split("=", 1) for part in cell.overrides)["method"] for cell in cells if cell.published} == {"base"}
