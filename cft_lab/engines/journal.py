"""An engine that remembers: every completion is journalled as it arrives, so a killed stage resumes row by row."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

from cft_lab.engines.base import Engine, Prompt
from cft_lab.json_files import Journal
from cft_lab.records import Completion, Sampling, to_row


class Memory:
    """What a journal knows: the last completion of each prompt, kept on disk. Errors are not known: they are tried again."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._places: dict[str, int] = {}  # prompt name -> place of its completion
        self._errors: dict[str, int] = {}
        #: dollars that all completions of the journal cost, errors and repeated ones included
        self.spent_usd = 0.0
        for place, row in journal.rows():
            self._file(row["prompt"], place, Completion(**row["completion"]))

    def missing(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[int]:
        """Indices of the prompts that have no completion yet."""
        return [i for i, prompt in enumerate(prompts) if _name(prompt, sampling) not in self._places]

    def find(self, prompt: Prompt, sampling: Sampling) -> Completion | None:
        """The prompt's completion, or its last error; None if it was never answered."""
        name = _name(prompt, sampling)
        place = self._places.get(name, self._errors.get(name))
        return None if place is None else Completion(**self._journal.read(place)["completion"])

    def adopt(self, prompts: Sequence[Prompt], sampling: Sampling, others: Sequence[Journal]) -> int:
        """Copies what other journals know of prompts that this one lacks, and returns how many. They cost nothing a second time."""
        wanted = {_name(prompts[i], sampling) for i in self.missing(prompts, sampling)}
        adopted = 0
        for other in others if wanted else ():
            for _, row in other.rows():
                completion = Completion(**row["completion"])
                if row["prompt"] in wanted and completion.answered:
                    wanted.discard(row["prompt"])
                    self._write(row["prompt"], dataclasses.replace(completion, cost_usd=None))
                    adopted += 1
        return adopted

    def recent(self, count: int) -> list[Completion]:
        """Up to `count` of the completions that were noted last."""
        places = sorted(self._places.values())[-count:]
        return [Completion(**self._journal.read(place)["completion"]) for place in places]

    def note(self, prompt: Prompt, sampling: Sampling, completion: Completion) -> None:
        """Writes a completion down."""
        self._write(_name(prompt, sampling), completion)

    def _write(self, name: str, completion: Completion) -> None:
        self._file(name, self._journal.append({"prompt": name, "completion": to_row(completion)}), completion)

    def _file(self, name: str, place: int, completion: Completion) -> None:
        self.spent_usd += completion.cost_usd or 0.0
        (self._errors if completion.finish == "error" else self._places)[name] = place


class JournalEngine:
    """Wraps an engine. Prompts that the journal already answers are not sent again; failed ones are tried again."""

    def __init__(self, engine: Engine, journal: Journal) -> None:
        self._engine = engine
        self._memory = Memory(journal)

    @property
    def spent_usd(self) -> float:
        """Dollars that all completions of the journal cost, errors and repeated ones included."""
        return self._memory.spent_usd

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        """See `Engine.generate`; what is known comes first."""
        missing = self._memory.missing(prompts, sampling)
        for index in sorted(set(range(len(prompts))) - set(missing)):
            known = self._memory.find(prompts[index], sampling)
            assert known is not None
            yield index, known
        for place, completion in self._engine.generate([prompts[i] for i in missing], sampling) if missing else ():
            self._memory.note(prompts[missing[place]], sampling, completion)
            yield missing[place], completion


def _name(prompt: Prompt, sampling: Sampling) -> str:
    """The prompt's id and a hash of all that its completion depends on within the stage."""
    digest = hashlib.sha256(repr((prompt.messages, sampling)).encode()).hexdigest()[:16]
    return f"{prompt.id}#{digest}"
