"""What can go wrong between here and an OpenAI-compatible server, and what is done about each: one table.

`STOP`: nothing more can be sent, the run ends with a message. `REFUSE`: this prompt will never be answered, the row is recorded as
refused. `RETRY`: it may pass, the row is tried again and, after the last try, recorded as an error.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STOP, REFUSE, RETRY = "stop", "refuse", "retry"
LONGEST_WAIT_S = 600.0  # a server that asks for more (a daily quota) is not waited for
SHOWN = 300  # characters of a server's own message that are kept


class ApiError(RuntimeError):
    """Nothing more can be sent. The text names the field and the remedy; the same command goes on afterwards."""


class BudgetReached(ApiError):  # noqa: N818 - reads as what happened
    """The next request could cross `max_cost_usd`. What was under way has been finished and yielded."""


class CostNotConfirmed(ApiError):  # noqa: N818
    """The estimate is above `confirm_above_usd` and `confirm_cost` is not set."""


@dataclass(frozen=True)
class Failure:
    """Why a request gave no text. `kind` is counted, `what` is shown (redacted), `then` is what follows from it."""

    kind: str
    what: str
    then: str
    billed: bool = False  # the server may ask money for it although no usage came back
    slow_down: bool = False  # fewer requests at once, for everybody
    retry_after_s: float | None = None
    tokens: tuple[int, int] | None = None  # prompt and output tokens, where the server reported them all the same


@dataclass(frozen=True)
class Target:
    """Who is called, as messages name it."""

    owner: str  # config group: teacher, responses or engine
    model: str
    url: str
    key_env: str | None

    @property
    def model_field(self) -> str:
        """The config field that holds the model's name."""
        return "model.api_model" if self.owner == "engine" else f"{self.owner}.model"


class Key:
    """The API key, which nothing prints: not its repr, and no text that has passed `redact` or `redact_reply`.

    Every text of a server passes one of these two before anything keeps it, so they also see to it that a file takes it.
    """

    _LOOKS_LIKE_A_KEY = re.compile(r"\b(sk|pk|key)-[\w*.\-]{6,}|(?<=Bearer )\S+")
    _PLACEHOLDER = 12  # characters; what is shorter (EMPTY, none) may be an ordinary word of a model's text

    def __init__(self, value: str | None) -> None:
        self.value = value or "no-key"
        self._secret = value

    def __repr__(self) -> str:
        return "[key]"

    def redact(self, text: str) -> str:
        """A message of the server without the key, or anything that looks like one: servers echo keys, whole or in part."""
        text = _writable(text)
        if self._secret:
            text = text.replace(self._secret, "[key]")
        return self._LOOKS_LIKE_A_KEY.sub("[key]", text)

    def redact_reply(self, text: str) -> str:
        """A model's text without the key; nothing else of it is touched."""
        text = _writable(text)
        return text.replace(self._secret, "[key]") if self._secret and len(self._secret) >= self._PLACEHOLDER else text


def _writable(text: str) -> str:
    """JSON can carry half of a surrogate pair, which UTF-8 has no bytes for: a question mark takes its place."""
    return text.encode("utf-8", "replace").decode("utf-8")


#: HTTP status -> (kind, then); what is missing: 4xx refuse the prompt, everything else is retried
_STATUS = {
    400: ("bad request", REFUSE),
    401: ("key refused", STOP),
    402: ("no credit", STOP),
    403: ("key refused", STOP),
    404: ("not found", STOP),
    405: ("not found", STOP),
    408: ("request timeout", RETRY),
    409: ("conflict", RETRY),
    425: ("too early", RETRY),
    429: ("rate limit", RETRY),
}
#: `code` or `type` in the error body -> (kind, then); stronger than the status
_CODES = {
    "insufficient_quota": ("no credit", STOP),
    "billing_hard_limit_reached": ("no credit", STOP),
    "invalid_api_key": ("key refused", STOP),
    "model_not_found": ("unknown model", STOP),
    "content_filter": ("content filter", REFUSE),
    "content_policy_violation": ("content filter", REFUSE),
    "context_length_exceeded": ("context length", REFUSE),
}
_MAYBE_BILLED = {408, 502, 504, 524}  # a gateway gave up; what stands behind it may have worked
_SAMPLING_FIELDS = {"temperature", "top_p", "stop", "seed", "n", "max_tokens", "max_completion_tokens"}


def status_failure(status: int, body: Any, headers: Mapping[str, str], key: Key) -> Failure:
    """What an HTTP error means. `body` is the decoded `error` object, or text where there is none."""
    message = _message(body)
    code = next((str(body[name]) for name in ("code", "type") if body.get(name) in _CODES), "") if isinstance(body, dict) else ""
    kind, then = _STATUS.get(status, (f"status {status}", REFUSE if 400 < status < 500 else RETRY))
    if code:
        kind, then = _CODES[code]
    elif then == REFUSE and "context length" in message.lower():
        kind = "context length"
    elif then == REFUSE and isinstance(body, dict) and body.get("param") in _SAMPLING_FIELDS:
        kind, then = "refused setting", STOP  # concerns every row alike
    elif kind == "not found" and "model" in message.lower():
        kind = "unknown model"
    wait = retry_after(headers)
    what = key.redact(f"{status}: {message}")[:SHOWN]
    if then == RETRY and wait is not None and wait > LONGEST_WAIT_S:
        kind, then = "long wait", STOP
    slow = then == RETRY and (status == 429 or (status == 503 and wait is not None))
    return Failure(kind, what, then, billed=status in _MAYBE_BILLED, slow_down=slow, retry_after_s=wait)


def _message(body: Any) -> str:
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body
    return " ".join(str(body or "no message").split())


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait from `Retry-After` (seconds or an HTTP date) or `retry-after-ms`; None if the server does not say."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, min(float(value) * unit, 1e9))
        except ValueError:
            pass
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, OverflowError):
            continue
    return None


_ADVICE = {
    "key refused": "{key}: the server at {url} refused the key ({what}). Check that the variable holds a valid key for this server",
    "no credit": "{owner}.base_url={url}: the account has no credit or quota left ({what}). Top it up",
    "unknown model": "{model_field}={model!r}: the server at {url} does not know this model ({what}). Give a name that it serves",
    "not found": "{owner}.base_url={url}: no chat completions there ({what}). The address usually ends in /v1",
    "unreachable": "{owner}.base_url={url}: nothing answers there ({what}). Start the server, or mend the address",
    "refused setting": "{model_field}={model!r}: the server refuses a sampling setting ({what}). Change that setting of {owner}",
    "long wait": "{owner}.base_url={url}: the server asks to wait for {wait:.0f} s ({what}). Run the same command again then",
}


def stop_error(failure: Failure, target: Target) -> ApiError:
    """The error for a failure that ends the run: field, value, what the server said, remedy."""
    key = (
        f"{target.owner}.api_key_env={target.key_env}"
        if target.key_env
        else f"{target.owner}.api_key_env=null (no key is sent; give the name of the environment variable that holds one)"
    )
    text = _ADVICE[failure.kind].format(
        owner=target.owner,
        url=target.url,
        model=target.model,
        model_field=target.model_field,
        key=key,
        what=failure.what,
        wait=failure.retry_after_s or 0,
    )
    return ApiError(f"{text}; what is finished stays, and the same command goes on from there")
