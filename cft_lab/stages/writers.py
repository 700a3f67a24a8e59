"""Models that write data: teachers, and models other than the trained one whose responses are used.

`ask` has prompts answered into the stage's journal, `Replies` reads the journal back in the order of the prompts.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cft_lab.config import Config, DataError, PricesConfig, WriterConfig, key_part
from cft_lab.engines.base import Engine, Prompt
from cft_lab.engines.journal import Memory
from cft_lab.engines.oracle import OracleEngine
from cft_lab.json_files import Journal, read_json, write_records
from cft_lab.lab.oracle import Oracle
from cft_lab.records import Completion, Failure, Sampling
from cft_lab.runtime import cached_snapshot, hub_cache
from cft_lab.stages.api import OBSERVED, api_lacks, open_api, stage_usd
from cft_lab.stages.common import JOURNAL, open_folder
from cft_lab.store import Work

FAILED = "failed.jsonl"


@dataclass(frozen=True)
class Writer:
    """Who is asked: the config part, which group it stands in (for messages and keys), and its kind."""

    part: WriterConfig
    group: str  # teacher | responses
    kind: str  # oracle | local | openai

    @property
    def author(self) -> str:
        """Who wrote, in the records."""
        return self.part.model or self.kind

    @property
    def sampling(self) -> Sampling:
        """How this writer's texts are drawn; greedy decoding has no seed and no nucleus."""
        part = self.part
        if part.temperature == 0:
            return Sampling(part.max_new_tokens)
        return Sampling(part.max_new_tokens, part.temperature, part.top_p, part.seed)

    def settings(self, config: Config) -> dict[str, Any]:
        """What goes into the key of a stage that this writer makes."""
        return key_part(self.part, self.group) | (key_part(config.engine, "engine") if self.kind == "local" else {})


def lacks(writer: Writer, config: Config) -> Iterator[str]:
    """What this machine or config lacks for asking the writer, one line each."""
    part, group = writer.part, writer.group
    if writer.kind == "oracle":
        return
    if not part.model:
        yield f"{group}.model has no value: name the model, {group}.model=..."
    elif writer.kind == "openai":
        yield from api_lacks(part.model, part, group, config.prices)
    elif cached_snapshot(part.model, part.revision) is None:
        yield (
            f"{group}.model={part.model}: neither a model folder nor in the local cache {hub_cache()}: fetch it where "
            f"there is a network (`hf download {part.model}`), set HF_HUB_CACHE, or name a folder"
        )


def ask(writer: Writer, config: Config, work: Work, prompts: Sequence[Prompt]) -> None:
    """Has every prompt that the stage's journal does not answer yet answered into it."""
    with Journal(work.folder / JOURNAL) as journal:
        memory = Memory(journal)
        _adopt(memory, writer, work, prompts)
        missing = [prompts[i] for i in memory.missing(prompts, writer.sampling)]
        if not missing:  # a finished journal needs neither server nor model
            return
        with _open(writer, config, work, memory) as engine:
            for place, completion in engine.generate(missing, writer.sampling):
                memory.note(missing[place], writer.sampling, completion)


def _adopt(memory: Memory, writer: Writer, work: Work, prompts: Sequence[Prompt]) -> None:
    """Takes over what the same writer was asked for another pool, so that a larger one pays for what is new only."""
    with contextlib.ExitStack() as stack:
        found = [twin / JOURNAL for twin in work.twins if (twin / JOURNAL).exists()]
        others = [stack.enter_context(Journal(path, read_only=True)) for path in found]
        adopted = memory.adopt(prompts, writer.sampling, others)
    if adopted:
        work.say(f"        {writer.group}: {adopted} of {len(prompts)} rows are known from other stages of the same {writer.group}")


class Replies:
    """What the stage's journal holds, in the order of the prompts: iterate for (problem id, completion) of answered rows.

    `counts` afterwards gives the manifest's numbers and settles the rows that failed.
    """

    def __init__(self, writer: Writer, work: Work, prompts: Mapping[str, Prompt], prices: PricesConfig) -> None:
        """`prompts` by problem id."""
        self._writer, self._work, self._prompts, self._prices = writer, work, prompts, prices
        self._failures: list[Failure] = []
        self._tally: Counter[str] = Counter()
        self._spent_usd = 0.0

    def __iter__(self) -> Iterator[tuple[str, Completion]]:
        with Journal(self._work.folder / JOURNAL) as journal:
            memory = Memory(journal)
            self._spent_usd = memory.spent_usd
            for problem_id, prompt in self._prompts.items():
                completion = memory.find(prompt, self._writer.sampling) or Completion("never answered", 0, "error")
                if not completion.answered:
                    self._failures.append(Failure(problem_id, completion.finish, completion.text))
                    continue
                self._tally["tokens"] += completion.num_tokens
                self._tally["prompt_tokens"] += completion.prompt_tokens or 0
                self._tally["cut_off"] += completion.finish == "length"
                yield problem_id, completion

    def counts(self) -> dict[str, Any]:
        """Tokens, dollars and failures, for the manifest; the failed rows go into a file of their own.

        A refused row costs that row. Raises DataError if others failed and `accept_failed` is off.
        """
        write_records(self._work.folder / FAILED, self._failures)
        group, part = self._writer.group, self._writer.part
        failed = [failure for failure in self._failures if failure.finish == "error"]
        if failed and not part.accept_failed:
            who = f"{group} {self._writer.author}"
            raise DataError(
                f"{len(failed)} of {len(self._prompts)} prompts to {who} failed, the first with: {failed[0].reason}; the others "
                f"are kept. Run the same command again to retry only these, or add {group}.accept_failed=true to go on without them"
            )
        counts: dict[str, Any] = {
            "asked": len(self._prompts),
            "failed": len(failed),
            "refused": len(self._failures) - len(failed),
            "cut_off": self._tally["cut_off"],
            "tokens": self._tally["tokens"],
        }
        if self._writer.kind == "openai":
            cost_usd = stage_usd(self._spent_usd, str(part.model), self._prices, self._work.folder)
            counts |= {"prompt_tokens": self._tally["prompt_tokens"], "cost_usd": cost_usd}
            observed = self._work.folder / OBSERVED
            counts["api"] = read_json(observed) if observed.exists() else {}
        return counts


def forget_refused(partial: Path) -> None:
    """Makes the refused rows of a stage that is open again count as failed, so that they are asked once more.

    They stay in the journal with what they cost.
    """
    kept = partial / f"{JOURNAL}.kept"
    kept.unlink(missing_ok=True)  # of an attempt that was killed
    with Journal(partial / JOURNAL) as journal, Journal(kept) as rest:
        for _, row in journal.rows():
            if row["completion"]["finish"] == "refused":
                row["completion"]["finish"] = "error"
            rest.append(row)
    os.replace(kept, partial / JOURNAL)


def _open(writer: Writer, config: Config, work: Work, memory: Memory) -> AbstractContextManager[Engine]:
    part = writer.part
    if writer.kind == "oracle":
        return contextlib.nullcontext(OracleEngine(Oracle(config.teacher.error_rate, config.teacher.seed)))
    assert part.model is not None
    if writer.kind == "openai":
        return open_api(part.model, part, writer.group, config, work, memory)
    folder = cached_snapshot(part.model, part.revision)
    if folder is None:
        raise DataError(f"{writer.group}.model={part.model}: its weights are not in the local cache")
    return open_folder(config.engine, folder, part.prompt_format, part.end_of_turn, config.progress)
