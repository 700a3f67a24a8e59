"""Between Hydra and the typed config: the only module besides cli.py that sees a DictConfig."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from cft_lab.config import PROJECT_ROOT, Config, ConfigError


def register() -> None:
    """Makes `Config` the schema that conf/config.yaml is composed into, and paths start at the project's folder."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("project_path", lambda path: str(PROJECT_ROOT / path), replace=True)


def to_config(composed: DictConfig) -> Config:
    """The composed config as plain typed objects, resolved."""
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError(*(f"{name} has no value: set it on the command line, {name}=..." for name in missing))
    return cast(Config, OmegaConf.to_object(composed))


def explain_unknown_field(error: BaseException) -> str | None:
    """For an override that names no field: what was meant, and what is allowed. None if the error is something else."""
    cause: BaseException | None = error
    while cause is not None and getattr(cause, "full_key", None) is None:
        cause = cause.__cause__
    if cause is None or "not in" not in str(cause):
        return None
    full_key = str(cause.full_key)  # type: ignore[attr-defined]
    group, _, name = full_key.rpartition(".")
    allowed = _fields_at(group)
    if not allowed or name in allowed:
        return None
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f"did you mean {group + '.' if group else ''}{close[0]}? " if close else ""
    return f"{full_key} is not a field: {hint}allowed in {group or 'the config'}: {', '.join(allowed)}"


def _fields_at(path: str) -> list[str]:
    node: Any = Config()
    for part in filter(None, path.split(".")):
        node = getattr(node, part, None)
    return [item.name for item in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []


def compose(*overrides: str) -> Config:
    """The config that `python run.py <overrides>` would run, composed from conf/; for tools and tests."""
    import hydra

    register()
    with hydra.initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        return to_config(hydra.compose("config", list(overrides)))
