"""What is told about an address and a key's variable, and what is never shown."""

import re
import subprocess
import sys

import pytest

from cft_lab.config import ApiConfig
from cft_lab.engines.api.engine import OpenAIEngine
from cft_lab.engines.api.errors import ApiError
from cft_lab.engines.api.settings import server_url, setting_problems, without_secrets


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:8000/v1", "https://host/accounts/@me/v1", "http://[::1]:8000/v1"])
@pytest.mark.parametrize("variable", [None, "OPENAI_API_KEY", "_k9"])
def test_usable_settings_have_no_problem(url: str | None, variable: str | None) -> None:
    assert list(setting_problems(ApiConfig(base_url=url, api_key_env=variable), "teacher")) == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000/v1",
        "host/v1",
        "http://",
        "http://[broken/v1",
        "http://host:99999/v1",
        "ftp://host/v1?token=hush",
        "host/v1#hush",
    ],
)
def test_what_is_no_address_is_shown_with_the_remedy(url: str) -> None:
    (problem,) = setting_problems(ApiConfig(base_url=url, api_key_env=None), "teacher")
    assert problem.startswith(f"teacher.base_url={re.split('[?#]', url)[0]!r} is no address of a server: write it as http://host")
    assert "hush" not in problem


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hush@host:1/v1",
        "https://hush@host/v1",
        "https://:hush@host/v1",
        "https://me:hu/sh@host/v1",
        "me:hush@host/v1",
        "ftp://me:hush@host/v1",
        "https://me:hush@host:99999/v1",
    ],
)
def test_passwords_in_an_address_are_refused_and_not_shown(url: str) -> None:
    (problem,) = setting_problems(ApiConfig(base_url=url, api_key_env=None), "responses")
    assert problem.startswith("responses.base_url has a user name or password in it")
    assert "responses.api_key_env" in problem
    assert "hush" not in problem
    assert "hu/sh" not in problem


@pytest.mark.parametrize("variable", ["", "sk-proj-hush", "9HUSH", "MY KEY hush", "hush\n", "schlüssel-hush"])
def test_what_cannot_be_a_variable_is_refused_and_not_shown(variable: str) -> None:
    (problem,) = setting_problems(ApiConfig(api_key_env=variable), "teacher")
    assert problem.startswith("teacher.api_key_env is no name of an environment variable")
    assert "hush" not in problem.lower()


def test_the_engine_refuses_what_has_problems_and_names_them_all() -> None:
    with pytest.raises(ApiError, match="teacher.base_url has a user name.*teacher.api_key_env is no name") as refusal:
        OpenAIEngine("m", ApiConfig(base_url="http://me:hush@h/v1", api_key_env="sk-hush"), owner="teacher", price=None, say=print)
    assert "hush" not in str(refusal.value)


@pytest.mark.parametrize("rest", ["?token=hush", "?api-version=1&key=hush", "#hush", "?to=me@hush", "?", "#"])
def test_what_follows_an_address_is_refused_and_not_shown(rest: str) -> None:
    (problem,) = setting_problems(ApiConfig(base_url=f"https://host:1/v1{rest}", api_key_env=None), "engine")
    assert problem.startswith("engine.base_url='https://host:1/v1' goes on with ? or #")
    assert "engine.api_key_env" in problem
    assert "hush" not in problem


def test_labels_of_cells_lose_what_is_not_shown() -> None:
    fine = "data=lab-web teacher.base_url=http://host:8000/v1 teacher.api_key_env=MY_KEY method=cft"
    assert without_secrets(fine) == fine
    for value in ("base_url=http://me:hush@h/v1", "base_url=http://h/v1?token=hush", "api_key_env=sk-hush"):
        told = f"sweeps/mine.yaml, CFT teacher.{value} seed=1"
        assert without_secrets(told) == f"sweeps/mine.yaml, CFT teacher.{value.partition('=')[0]}=(not shown) seed=1"


def test_without_an_address_the_server_is_openais() -> None:
    assert server_url(ApiConfig(base_url="https://host:1/v1")) == "https://host:1/v1"
    assert server_url(ApiConfig()) == "https://api.openai.com/v1"


def test_asking_about_settings_imports_no_client() -> None:
    script = (
        "import sys, cft_lab.engines.api.settings; print([n for n in ('openai', 'httpx2', 'torch', 'tqdm') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"
