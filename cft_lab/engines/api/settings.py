"""What can be said of the settings of a server without calling it; light, so that it can be asked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from cft_lab.config import ApiConfig

OPENAI_URL = "https://api.openai.com/v1"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_SHOWN = re.compile(r"(?<=\.base_url=)\S*[?#@]\S*|(?<=\.api_key_env=)\S*[^\w\s]\S*")


def setting_problems(api: ApiConfig, owner: str) -> Iterator[str]:
    """What is wrong with the address and the name of the key's variable, one line each, with the remedy.

    `owner` is the config group that the lines name. No line shows a password, a query, or what may be a key: a config that
    passes is stored and handed on with its addresses.
    """
    if api.base_url is not None:
        yield from _address_problems(api.base_url, owner)
    if api.api_key_env is not None and not _VARIABLE.fullmatch(api.api_key_env):
        yield (
            f"{owner}.api_key_env is no name of an environment variable (letters, digits and _, no digit first) and is not "
            f"shown here: it may be a key. Put the key into a variable and give its name, say {owner}.api_key_env=OPENAI_API_KEY"
        )


def _address_problems(url: str, owner: str) -> Iterator[str]:
    remedy = "write it as http://host:8000/v1 or https://host/v1"
    key = f"and give the key in the environment variable that {owner}.api_key_env names"
    shown = re.split("[?#]", url)[0]
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if "@" in (parts.netloc if usable else url):  # what stands before an @ may be a password, wherever it is
        yield f"{owner}.base_url has a user name or password in it, and is not shown here: {remedy}, {key}"
    elif not usable:
        yield f"{owner}.base_url={shown!r} is no address of a server: {remedy}"
    elif shown != url:  # requests could not carry it either: their path is put at its end
        yield f"{owner}.base_url={shown!r} goes on with ? or #; what follows may be a key and is not shown: {remedy}, {key}"


def without_secrets(overrides: str) -> str:
    """Overrides for messages, such as a cell's label, without the values that `setting_problems` does not show."""
    return _NOT_SHOWN.sub("(not shown)", overrides)


def server_url(api: ApiConfig) -> str:
    """The server's address, which messages show."""
    return api.base_url or OPENAI_URL
