"""Results between stores, and archives that are damaged or hostile: then the store stays as it was."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stores import Made, plan_cell, quiet_store, tree

from cft_lab import pipeline
from cft_lab.__main__ import main
from cft_lab.commands import archive
from cft_lab.config import Config
from cft_lab.grade_columns import OUTCOMES, read_columns
from cft_lab.locks import take
from cft_lab.records import Outcome
from cft_lab.store import DONE, PRUNED, Store, key_of

Files = dict[str, bytes]


def export(store: Path, file: Path, *arguments: str) -> int:
    return main(["export", "--store", str(store), str(file), *arguments])


def load(store: Path, file: Path, *arguments: str) -> int:
    return main(["import", "--store", str(store), str(file), *arguments])


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A finished cell in the store at tmp_path / "here"."""
    cell = plan_cell()
    quiet_store(tmp_path / "here")[0].ensure(cell.result)
    return cell


@pytest.fixture
def packed(made: Made, tmp_path: Path) -> Path:
    """An archive of that store, with generations."""
    assert export(tmp_path / "here", tmp_path / "a.tar.gz", "--with-generations") == 0
    return tmp_path / "a.tar.gz"


def members(file: Path) -> Files:
    with tarfile.open(file) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened}  # type: ignore[union-attr]


def index_of(files: Files) -> bytes:
    """The index that fits these files."""
    about = {name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()}
    return json.dumps({"format": 1, "created": "", "files": about}).encode()


def pack(file: Path, files: Files, index: bytes | None = None) -> Path:
    """An archive of these files, with the index that fits them or another one."""
    contents = {"index.json": index or index_of(files), **files}
    with tarfile.open(file, "w:gz", format=tarfile.USTAR_FORMAT) as opened:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return file


def without_index(file: Path) -> Files:
    return {name: content for name, content in members(file).items() if name != "index.json"}


def test_results_arrive_whole_and_nothing_is_built_on_records(made: Made, tmp_path: Path, packed: Path) -> None:
    assert load(tmp_path / "there", packed) == 0
    store, lines = quiet_store(tmp_path / "there")
    for stage in (made.result, made.scores, made.generations):
        assert store.is_done(stage)
    store.ensure(made.result)
    assert lines == []
    for stage in (made.base, made.problems, made.critiques, made.examples, made.candidates, made.selected):
        assert not store.is_done(stage)
        assert (store.folder(stage) / PRUNED).exists()
        assert store.manifest(stage)["config"] == dict(stage.config)
    assert (store.folder(made.selected) / "curve.json").exists()
    assert {path.name for path in store.folder(made.candidates).iterdir()} == {
        "manifest.json", "metrics.jsonl", "curve.json", "first_example.json", PRUNED,
    }  # fmt: skip
    assert not list((tmp_path / "there").rglob("*.safetensors"))
    assert list(store.unmade(replace(made.scores, version=2))) == [replace(made.scores, version=2)], "generations are whole"
    wanted = replace(made.generations, config={"temperature": 0.6})
    assert [stage.name for stage in store.unmade(wanted)] == [
        "problems", "critiques", "examples", "base_model", "candidates", "selected", "generations",
    ]  # fmt: skip
    store.ensure(wanted)
    assert store.is_done(made.candidates)
    assert store.manifest(made.result)["imported"]["from"] == "a.tar.gz"
    assert not (tmp_path / "there" / "importing").exists()


def test_grades_arrive_as_columns_too_made_from_the_lines_that_were_checked(made: Made, tmp_path: Path, packed: Path) -> None:
    with tarfile.open(packed) as archive:
        assert not [name for name in archive.getnames() if name.endswith(".parquet")]
    assert main(["import", "--store", str(tmp_path / "there"), str(packed)]) == 0
    folder = tmp_path / "there" / "scores" / made.scores.key
    assert (folder / "grades.parquet").is_file()
    (folder / "grades.jsonl").unlink()
    assert read_columns(folder).outcome.tolist() == [OUTCOMES.index(Outcome.CORRECT), OUTCOMES.index(Outcome.WRONG)]


def test_generations_stay_at_home_unless_asked_for_and_come_later(made: Made, tmp_path: Path, packed: Path) -> None:
    assert export(tmp_path / "here", tmp_path / "b.tgz") == 0
    assert load(tmp_path / "there", tmp_path / "b.tgz") == 0
    store, _ = quiet_store(tmp_path / "there")
    assert not store.is_done(made.generations)
    assert store.is_done(made.result)
    assert load(tmp_path / "there", packed) == 0
    assert store.is_done(made.generations)
    assert not (store.folder(made.generations) / PRUNED).exists()


def test_what_a_store_has_already_is_kept(made: Made, tmp_path: Path, packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: content for name, content in tree(tmp_path / "here").items() if not name.endswith(".lock")}
    assert load(tmp_path / "here", packed) == 0
    assert {name: content for name, content in tree(tmp_path / "here").items() if not name.endswith(".lock")} == before
    assert "0 results, 0 other whole stages and 0 records imported; 9 stages were here already" in capsys.readouterr().out


def test_a_record_does_not_replace_a_stage_that_a_kill_left_without_its_mark(made: Made, tmp_path: Path, packed: Path) -> None:
    store, _ = quiet_store(tmp_path / "there")
    killed = (made.examples, made.candidates, made.selected)
    store.ensure(made.selected)
    for stage in killed:
        (store.folder(stage) / DONE).unlink()
    before = [tree(store.folder(stage)) for stage in killed]
    assert load(tmp_path / "there", packed) == 0
    assert [tree(store.folder(stage)) for stage in killed] == before
    store.ensure(made.examples)
    assert store.manifest(made.examples)["resumed"], "it is completed as if nothing had been imported"


def test_an_archive_of_an_import_is_the_same_again(tmp_path: Path, packed: Path) -> None:
    assert load(tmp_path / "there", packed) == 0
    assert export(tmp_path / "there", tmp_path / "again.tar.gz", "--with-generations") == 0
    first, again = without_index(packed), without_index(tmp_path / "again.tar.gz")
    assert first.keys() == again.keys()
    assert all(first[name] == again[name] for name in first if not name.endswith("manifest.json"))


def test_a_result_whose_scores_were_measured_here_with_another_score_is_left_out(
    made: Made, tmp_path: Path, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    luckier = plan_cell(outcomes=("correct", "correct"))
    assert luckier.scores.key == made.scores.key
    store, _ = quiet_store(tmp_path / "there")
    store.ensure(luckier.scores)
    assert load(tmp_path / "there", packed) == 0
    assert f"left out: result {made.result.key}, whose items of lab-basic were measured here too" in capsys.readouterr().out
    assert not store.is_done(made.result)


def test_a_stage_that_a_process_is_making_is_left_to_it(
    made: Made, tmp_path: Path, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "there" / "generations" / made.generations.key
    target.parent.mkdir(parents=True)
    held = take(target)
    assert load(tmp_path / "there", packed) == 0
    assert held is not None
    assert not target.exists()
    assert f"left out: generations {made.generations.key}, which a process is making here" in capsys.readouterr().out


def test_texts_of_private_benchmarks_stay_at_home(tmp_path: Path) -> None:
    private = plan_cell(benchmark="gpqa-diamond")
    quiet_store(tmp_path / "here")[0].ensure(private.result)
    assert export(tmp_path / "here", tmp_path / "a.tar.gz", "--with-generations") == 0
    files = without_index(tmp_path / "a.tar.gz")
    assert not any(name.endswith("generations.jsonl") for name in files)
    grades = [json.loads(line) for line in files[f"scores/{private.scores.key}/grades.jsonl"].splitlines()]
    assert [(row["outcome"], row["extracted"]) for row in grades] == [("correct", None), ("wrong", None)]
    assert not any(b"answer 0" in content or b"text 0" in content for content in files.values())
    assert load(tmp_path / "there", tmp_path / "a.tar.gz") == 0
    assert Store(tmp_path / "there").is_done(private.result)


@pytest.mark.parametrize(
    ("file", "code", "told"),
    [
        ("a.tar.zst", 2, "the only format that is written"),
        ("here", 2, "the only format"),
        ("no/such/a.tar.gz", 1, "could not be written"),
    ],
)
def test_an_archive_that_cannot_be_written(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, code: int, told: str
) -> None:
    assert export(tmp_path / "here", tmp_path / file) == code
    assert told in capsys.readouterr().err


def test_bad_input_of_both_commands(made: Made, tmp_path: Path, packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(tmp_path / "here", packed) == 2
    assert "is there already" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert export(tmp_path / "empty", tmp_path / "b.tar.gz") == 2
    assert "has no finished result" in capsys.readouterr().err
    assert load(tmp_path / "there", tmp_path / "none.tar.gz") == 2
    assert not (tmp_path / "there").exists()


def _link(kind: bytes) -> Callable[[Files, Path], Path]:
    """An archive that has a link, device or the like among its files."""

    def write(files: Files, file: Path) -> Path:
        with tarfile.open(file, "w:gz") as opened:
            index = index_of(files)
            member = tarfile.TarInfo("index.json")
            member.size = len(index)
            opened.addfile(member, io.BytesIO(index))
            link = tarfile.TarInfo(next(iter(files)))
            link.type, link.linkname = kind, "/etc/passwd"
            opened.addfile(link)
        return file

    return write


def _named(name: str) -> Callable[[Files, Path], Path]:
    return lambda files, file: pack(file, {**files, name: b"{}"})


def _unlisted(name: str) -> Callable[[Files, Path], Path]:
    """A member that the index does not have."""
    return lambda files, file: pack(file, {**files, name: b"{}"}, index_of(files))


def _changed(end: str, change: Callable[[Any], Any]) -> Callable[[Files, Path], Path]:
    """An archive in which one JSON file says something else, in an index that fits it."""

    def write(files: Files, file: Path) -> Path:
        name = next(name for name in files if name.endswith(end))
        return pack(file, {**files, name: json.dumps(change(json.loads(files[name]))).encode()})

    return write


def _without(end: str) -> Callable[[Files, Path], Path]:
    return lambda files, file: pack(file, {name: content for name, content in files.items() if not name.endswith(end)})


def _line(end: str, line: bytes) -> Callable[[Files, Path], Path]:
    return lambda files, file: pack(file, {n: (c + line if n.endswith(end) else c) for n, c in files.items()})


def _long_header(files: Files, file: Path) -> Path:
    """A pax header: tarfile would read any length of it into memory."""
    with tarfile.open(file, "w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 100_000}) as opened:
        opened.addfile(tarfile.TarInfo("index.json"))
    return file


def _trailing(files: Files, file: Path) -> Path:
    pack(file, files)
    with gzip.open(file, "ab") as more:
        more.write(b"more")
    return file


def _endless(files: Files, file: Path) -> Path:
    pack(file, files)
    with gzip.open(file, "ab") as more:
        more.write(bytes(5_000_000))
    return file


def _false_hash(files: Files, file: Path) -> Path:
    index = json.loads(index_of(files))
    index["files"][next(iter(files))]["sha256"] = "0" * 64
    return pack(file, files, json.dumps(index).encode())


_OTHER_KEY = "its key is not that of its manifest"
HOSTILE: Mapping[str, tuple[Callable[[Files, Path], Path], str]] = {
    "absolute path": (_named("/root/evil.json"), "is no file that is imported"),
    "path upwards": (_named("scores/0123456789abcdef/../../../evil.json"), "is no file that is imported"),
    "path upwards, unlisted": (_unlisted("../../evil.json"), "is not what its index has next"),
    "weights": (_named("candidates/0123456789abcdef/step-000001/model.safetensors"), "is no file that is imported"),
    "a pickle": (_named("selected/0123456789abcdef/optimizer.pkl"), "is no file that is imported"),
    "a stage of no such name": (_named("sweeps/0123456789abcdef/manifest.json"), "is no file that is imported"),
    "a mark": (_named("scores/0123456789abcdef/DONE"), "is no file that is imported"),
    "control characters": (_named("\x1b[31mred"), "is no file that is imported"),
    "symbolic link": (_link(tarfile.SYMTYPE), "is not a plain file"),
    "hard link": (_link(tarfile.LNKTYPE), "is not a plain file"),
    "device": (_link(tarfile.CHRTYPE), "is not a plain file"),
    "folder": (_link(tarfile.DIRTYPE), "is not a plain file"),
    "long header": (_long_header, "is not a plain file"),
    "no index": (lambda files, file: pack(file, {}, b"[]"), "is of no format that this version knows"),
    "another format": (lambda files, file: pack(file, files, b'{"format": 2, "files": {}}'), "is of no format"),
    "index is no JSON": (lambda files, file: pack(file, files, b"{"), "index.json is not JSON"),
    "deep index": (lambda files, file: pack(file, files, b"[" * 200_000), "index.json is not JSON"),
    "negative size": (
        lambda files, file: pack(file, files, b'{"format": 1, "files": {"result/0123456789abcdef/result.json": {"bytes": -1}}}'),
        "its index says nothing about",
    ),
    "a file is missing": (
        lambda files, file: pack(file, dict(list(files.items())[:-1]), index_of(files)), "and 0 other files are missing",
    ),
    "another hash": (_false_hash, "its sha256 is another"),
    "something after the end": (_trailing, "something follows its end"),
    "endless zeros after the end": (_endless, "something follows its end"),
    "another key": (_changed("manifest.json", lambda row: row | {"config": {"hidden_size": 9}}), _OTHER_KEY),
    "another stage": (_changed("manifest.json", lambda row: row | {"stage": "../evil"}), _OTHER_KEY),
    "upstream is a path": (
        _changed("manifest.json", lambda row: row | {"upstream": {"of": "../../../etc"}}), _OTHER_KEY,
    ),
    "label for a terminal": (_changed("manifest.json", lambda row: row | {"label": "\x1b]0;evil\x07"}), "values that"),
    "manifest is a list": (_changed("manifest.json", lambda row: [row]), "AttributeError"),
    "manifest without a hash": (
        _changed("manifest.json", lambda row: {k: v for k, v in row.items() if k != "source_hash"}), "has no source_hash",
    ),
    "no manifest": (_without("/manifest.json"), "FileNotFoundError"),
    "better score": (_changed("score.json", lambda row: row | {"correct": 2}), "its score is not that of its grades"),
    "impossible accuracy": (_changed("score.json", lambda row: row | {"accuracy": 7.0}), "7.0 is no share"),
    "text for accuracy": (_changed("score.json", lambda row: row | {"accuracy": "high"}), "TypeError"),
    "unknown benchmark": (_changed("score.json", lambda row: row | {"benchmark": "mine"}), "'mine' is not known here"),
    "no grades": (_without("grades.jsonl"), "FileNotFoundError"),
    "unknown outcome": (
        _line("grades.jsonl", b'{"problem_id": "9", "outcome": "splendid"}\n'), "'splendid' is not a valid Outcome",
    ),
    "grade is no record": (_line("grades.jsonl", b'{"run": "rm -rf"}\n'), "unexpected keyword argument"),
    "generation is no record": (_line("generations.jsonl", b"[]\n"), "TypeError"),
    "result of other scores": (
        _changed("result.json", lambda row: row | {"scores": [row["scores"][0] | {"correct": 0}]}), "is not that of the scores",
    ),
    "result names a path": (
        _changed("result.json", lambda row: row | {"keys": row["keys"] | {"selected": "../../etc"}}), "something that is no key",
    ),
    "result without its scores": (
        lambda files, file: pack(file, {n: c for n, c in files.items() if not n.startswith("scores/")}),
        "is not that of the scores stage that it names",
    ),
    "curve without steps": (_changed("curve.json", lambda rows: [{"correct": 1, "n": 2}]), "KeyError"),
    "metrics without steps": (_line("metrics.jsonl", b'{"loss": 1}\n'), "KeyError"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_whole(
    case: str, made: Made, tmp_path: Path, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write, reason = HOSTILE[case]
    root = tmp_path / "there"
    quiet_store(root)[0].ensure(plan_cell(seed=1).candidates)
    before = tree(root)
    capsys.readouterr()
    assert load(root, write(without_index(packed), tmp_path / "evil.tar.gz")) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"Nothing was imported: {tmp_path / 'evil.tar.gz'}: ")
    assert reason in told
    assert "\x1b" not in told
    assert tree(root) == before
    assert not list(tmp_path.rglob("evil.json"))


def test_the_unchanged_copy_of_the_hostile_archives_is_accepted(tmp_path: Path, packed: Path) -> None:
    assert load(tmp_path / "there", pack(tmp_path / "copy.tar.gz", without_index(packed))) == 0


def test_a_damaged_archive_is_refused_wherever_it_is_damaged(
    made: Made, tmp_path: Path, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = packed.read_bytes()
    for place in range(0, len(content), 97):
        for damaged in (content[:place], content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]):
            if damaged[10:] == content[10:]:  # gzip's own header says when and by what
                continue
            (tmp_path / "damaged.tar.gz").write_bytes(damaged)
            assert load(tmp_path / "there", tmp_path / "damaged.tar.gz") == 1, place
            assert "damaged.tar.gz" in capsys.readouterr().err
    assert list((tmp_path / "there").iterdir()) == []


def test_an_archive_that_is_too_large_is_refused_before_it_is_unpacked(
    tmp_path: Path, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(tmp_path / "there", packed, "--max-gb", "0.000001") == 1
    assert "above --max-gb (1.0 kB)" in capsys.readouterr().err
    files = without_index(packed)
    index = json.loads(index_of(files))
    index["files"][next(iter(files))]["bytes"] = 10**13  # the index lies about the size of what follows
    assert load(tmp_path / "there", pack(tmp_path / "b.tar.gz", files, json.dumps(index).encode()), "--max-gb", "1e9") == 1
    assert "has no room for that" in capsys.readouterr().err


def test_an_import_that_was_killed_is_repeated(made: Made, tmp_path: Path, packed: Path) -> None:
    root = tmp_path / "there"
    with archive.unpacked(packed, root, 10**9) as folder:
        shutil.copytree(folder / "scores", root / "scores")  # moved, but killed before more
    (root / "scores" / made.scores.key / DONE).touch()
    assert load(root, packed) == 0
    assert Store(root).is_done(made.result)


@pytest.mark.slow
def test_a_real_cell_is_the_same_in_another_store(
    cell: Callable[..., Config], shared_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = cell("method=sft")
    result = pipeline.run(config, lambda line: None)
    stages = list(pipeline.plan(config).result.walk())
    for stage in stages:
        told = Store(shared_store).manifest(stage)
        assert key_of(told["stage"], told["version"], told["config"], told["prompts"], told["upstream"]) == stage.key
    assert export(shared_store, tmp_path / "a.tar.gz") == 0
    assert load(tmp_path / "there", tmp_path / "a.tar.gz") == 0
    lines: list[str] = []
    there = replace(config, output_root=str(tmp_path / "there"), tracking=replace(config.tracking, kind="wandb"))
    assert pipeline.run(there, lines.append) == result
    assert lines == []
    assert list((tmp_path / "there" / "tracking").glob("wandb/offline-run-*")), "what was imported can be tracked"
    capsys.readouterr()
    assert main(["stages", "--store", str(tmp_path / "there")]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.endswith("(record)")]
    assert {"candidates", "selected"} <= set(listed)
    assert main(["lab-errors", "--store", str(tmp_path / "there")]) == 0
