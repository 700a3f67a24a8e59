"""A chat completion, as it is asked for and as it is read. Replies are untrusted: every field may be missing or of another type."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeGuard

from cft_lab.engines.api.errors import REFUSE, RETRY, SHOWN, Failure, Key
from cft_lab.engines.base import Prompt, draw_seed
from cft_lab.records import Sampling

MOST_STOPS = 4  # that OpenAI takes; longer lists are finished here
SEED_BITS = 31  # every server takes a 32-bit signed seed
RENAME_LIMIT = "the server wants max_completion_tokens instead of max_tokens: used from now on"
NO_SEED = "the server does not take `seed`: left out from now on, so draws cannot be repeated"
_UNSUPPORTED = re.compile(r"unsupported|not supported|unknown|unrecognized|unexpected|not permitted|not allowed|invalid", re.I)


@dataclass(frozen=True)
class Reply:
    """A whole answer. `tokens` is the server's count of (prompt, output) tokens, None if it gave none."""

    text: str
    finish: str  # stop or length
    tokens: tuple[int, int] | None
    model: str
    choices: int = 1


class Asking:
    """Writes request bodies, and learns which parameters this server does not take."""

    def __init__(self, model: str, sampling: Sampling, lessons: set[str], say: Callable[[str], None]) -> None:
        """`lessons` is what was learnt so far about the server, and is added to; `say` gets a line for each lesson."""
        self._model, self._sampling, self._lessons, self._say = model, sampling, lessons, say

    def body(self, prompt: Prompt) -> dict[str, Any]:
        """The JSON body for one prompt: one choice, never more, since servers ignore `n`."""
        sampling = self._sampling
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": message.role, "content": message.content} for message in prompt.messages],
            "temperature": sampling.temperature,
            "max_completion_tokens" if RENAME_LIMIT in self._lessons else "max_tokens": sampling.max_new_tokens,
        }
        if sampling.top_p < 1:
            body["top_p"] = sampling.top_p
        if sampling.stop:
            body["stop"] = list(sampling.stop[:MOST_STOPS])
        if sampling.temperature > 0 and NO_SEED not in self._lessons:
            body["seed"] = draw_seed(sampling, prompt) >> (63 - SEED_BITS)
        return body

    def learn(self, failure: Failure, body: Collection[str]) -> bool:
        """Whether the server refused a parameter of `body` (names suffice) that is renamed, or left out, from now on."""
        if failure.kind not in ("bad request", "refused setting", "status 422"):
            return False
        if "max_tokens" in body and "max_completion_tokens" in failure.what:
            return self._learn(RENAME_LIMIT)
        if "seed" in body and re.search(r"\bseed\b", failure.what) and _UNSUPPORTED.search(failure.what):
            return self._learn(NO_SEED)
        return False

    def _learn(self, lesson: str) -> bool:
        if lesson not in self._lessons:  # many requests in flight learn it at the same time
            self._lessons.add(lesson)
            self._say(lesson)
        return True


def read_reply(content: bytes, sampling: Sampling, key: Key) -> Reply | Failure:
    """The reply in a body that came with status 200, or why it is none."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        start = key.redact(content[:80].decode(errors="replace"))
        return Failure("malformed JSON", f"the reply is not JSON ({type(error).__name__}): {start!r}", RETRY, billed=True)
    return read_completion(data, sampling, key)


def read_completion(data: Any, sampling: Sampling, key: Key) -> Reply | Failure:
    """As `read_reply`, from the decoded object (a result line of a batch has it)."""
    if not isinstance(data, dict):
        return Failure("malformed reply", f"the reply is no JSON object but {type(data).__name__}", RETRY, billed=True)
    tokens = _tokens(data.get("usage"))
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        error = data.get("error")
        what = f"the reply has no choices{f': {error}' if error else ''}"
        return Failure("no choices", key.redact(what)[:SHOWN], RETRY, billed=True, tokens=tokens)
    finish, text, refusal = choice.get("finish_reason"), message.get("content"), message.get("refusal")
    if finish == "content_filter" or (refusal and not text):
        what = str(refusal or "the server's content filter withheld the text")
        return Failure("content filter" if not refusal else "refusal", key.redact(what)[:SHOWN], REFUSE, tokens=tokens)
    if finish not in ("stop", "length") or not isinstance(text, str):
        what = f"content of type {type(text).__name__} with finish_reason {finish!r}"
        return Failure("no text", key.redact(what)[:SHOWN], RETRY, billed=True, tokens=tokens)
    # an empty text is what was asked for only if a stop string, or the limit, may have come first
    if not text and finish == "stop" and not (sampling.stop and tokens and tokens[1]):
        return Failure("empty text", "an empty text with finish_reason 'stop'", RETRY, billed=True, tokens=tokens)
    text, cut = cut_at_stop(text, sampling.stop)
    model = data.get("model")
    return Reply(
        key.redact_reply(text),
        "stop" if cut else finish,
        tokens,
        key.redact(model)[:100] if isinstance(model, str) else "unnamed",
        len(choices) if isinstance(choices, list) else 0,
    )


def cut_at_stop(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there was one: the same result for a server that takes four of them,
    that keeps them in the text, or that does not know them."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _tokens(usage: Any) -> tuple[int, int] | None:
    if not isinstance(usage, dict):
        return None
    prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return (prompt, output) if _is_count(prompt) and _is_count(output) else None


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9
