"""Between Hydra and the typed config: the only module besides cli.py that sees a DictConfig."""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf, open_dict

from cft_lab.config import PROJECT_ROOT, Config, ConfigError

SWEEPS = PROJECT_ROOT / "sweeps"  # the sweep files: group `sweeps` of the command line


def register() -> None:
    """Makes `Config` the schema that conf/config.yaml is composed into, and paths start at the project's folder.

    Sweep files become the choices of a group, which puts nothing into a config: what they hold is read by cft_lab/sweeps. The
    sweeper is named here as well, so that composing works where Hydra does not find plugins.
    """
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(group="hydra/sweeper", name="cft_lab", node={"_target_": "hydra_plugins.cft_lab_sweeper.CellSweeper"})
    for name in sweep_names():
        group, _, choice = f"sweeps/{name}".rpartition("/")
        store.store(group=group, name=choice, node={}, package="_global_")
    OmegaConf.register_new_resolver("project_path", lambda path: str(PROJECT_ROOT / path), replace=True)


def sweep_names(folder: Path = SWEEPS) -> list[str]:
    """The sweep files, by their names on the command line."""
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def to_config(composed: DictConfig) -> Config:
    """The composed config as plain typed objects, resolved."""
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError(*(f"{name} has no value: set it on the command line, {name}=..." for name in missing))
    return cast(Config, OmegaConf.to_object(composed))


def explain_unknown_field(error: BaseException) -> str | None:
    """For an override that names no field: what was meant, and what is allowed. None if the error is something else."""
    full_key, said = _about_field(error)
    if "not in" not in said:
        return None
    group, _, name = full_key.rpartition(".")
    allowed = _fields_at(group)
    if not allowed or name in allowed:
        return None
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f"did you mean {group + '.' if group else ''}{close[0]}? " if close else ""
    return f"{full_key} is not a field: {hint}allowed in {group or 'the config'}: {', '.join(allowed)}"


def explain_value_of_part(error: BaseException) -> str | None:
    """For a value that is given to a part of the config with fields of its own. None if the error is something else."""
    full_key, said = _about_field(error)
    allowed = _fields_at(full_key)
    if not allowed or "is not a subclass of" not in said:
        return None
    if full_key == "mix_data":
        return "mix_data is filled from the group data: choose with data@mix_data=NAME, as in method=mix data@mix_data=lab-forum"
    return f"{full_key} has fields of its own: give these values, as in {full_key}.{allowed[0]}=...: {', '.join(allowed)}"


def _about_field(error: BaseException) -> tuple[str, str]:
    """The field that an error is about, and what was said of it; empty if it is about none."""
    cause: BaseException | None = error
    while cause is not None and getattr(cause, "full_key", None) is None:
        cause = cause.__cause__
    return (str(getattr(cause, "full_key", "")), str(cause)) if cause else ("", "")


def _fields_at(path: str) -> list[str]:
    node: Any = Config()
    for part in filter(None, path.split(".")):
        node = getattr(node, part, None)
    return [item.name for item in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []


def explain(error: Exception) -> str | None:
    """What is wrong with a config that Hydra or OmegaConf refused; None if the error is another one."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if type(error) is ValueError and str(error).startswith("Config group override must be"):  # Hydra does not say which
        return f"{error}: name a choice of the group, as in method=cft; a number is quoted"
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    cause = f": {error.__cause__}" if error.__cause__ else ""
    return explain_unknown_field(error) or explain_value_of_part(error) or f"{error}{cause}".replace("\n", "\n    ")


class _ReadOnce(ConfigRepository):
    """The files of a repository, each read and parsed once: Hydra does so for every composition, a quarter of its time."""

    def __init__(self, sources: list[ConfigSource]) -> None:
        self.sources = sources
        self._read: dict[str, ConfigResult | None] = {}

    def __deepcopy__(self, memo: object) -> _ReadOnce:
        """Hydra composes from a copy of its repository, which it may give other sources."""
        copied = _ReadOnce(self.sources)
        copied._read = self._read
        return copied

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        super().initialize_sources(config_search_path)
        self._read = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self._read:
            self._read[config_path] = super().load_config(config_path)
        return copy.deepcopy(self._read[config_path])  # composing changes it


@dataclasses.dataclass(frozen=True)
class _Composed:
    """A composed config and which choice of every group it has."""

    config: DictConfig
    choices: Mapping[str, str | None]


class Composer:
    """Composes cells while Hydra is initialised. Cells share what they have in common: files, and choices of groups."""

    def __init__(self, hydra_overrides: Sequence[str] = ()) -> None:
        """`hydra_overrides` were given for Hydra itself, such as hydra.searchpath."""
        self._hydra_overrides = list(hydra_overrides)
        self._composed: dict[tuple[str, ...], _Composed] = {}
        self._is_group: dict[str, bool] = {}

    def __call__(self, overrides: Sequence[str]) -> Config:
        """The config of `python run.py <overrides>`. Raises the errors that `explain` explains, and ConfigError."""
        from hydra.core.global_hydra import GlobalHydra
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.core.override_parser.types import Override, OverrideType

        loader: Any = GlobalHydra.instance().config_loader()
        if not isinstance(loader.repository, _ReadOnce):
            loader.repository = _ReadOnce(loader.repository.sources)
        chosen: list[Override] = []
        values: list[Override] = []
        for override in OverridesParser.create(config_loader=loader).parse_overrides(list(overrides)):
            name = override.key_or_group
            if name not in self._is_group:  # Hydra takes 10 ms to tell
                self._is_group[name] = bool(loader.get_group_options(name))
            if self._is_group[name] and not override.is_delete() and not isinstance(override.value(), (str, list, dict)):
                choices = ", ".join(loader.get_group_options(name))
                raise ConfigError(f"{override.input_line} is no choice of the group {name}: choose from {choices}")
            sets_field = override.type is OverrideType.CHANGE and not self._is_group[name]
            (values if sets_field else chosen).append(override)
        config = self._chosen(tuple(str(override.input_line) for override in chosen)).config
        if values:
            config = copy.deepcopy(config)
        for override in values:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        return to_config(config)

    def _chosen(self, groups: tuple[str, ...]) -> _Composed:
        """What these choices of groups make. One that the others, composed before, make by themselves changes nothing."""
        import hydra

        for place, group in enumerate(groups):
            name, _, choice = group.partition("=")
            rest = self._composed.get((*groups[:place], *groups[place + 1 :]))
            if groups not in self._composed and rest is not None and rest.choices.get(name) == choice:
                self._composed[groups] = rest
        if groups not in self._composed:
            config = hydra.compose("config", [*self._hydra_overrides, *groups], return_hydra_config=True)
            choices = dict(config.hydra.runtime.choices)
            with open_dict(config):
                del config["hydra"]
            self._composed[groups] = _Composed(config, choices)
        return self._composed[groups]


@contextmanager
def initialized() -> Iterator[None]:
    """Initialises Hydra on conf/, where `hydra.main` has not; for tools and tests."""
    import hydra

    register()
    with hydra.initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        yield


def compose(*overrides: str) -> Config:
    """The config that `python run.py <overrides>` would run, composed from conf/; for tools and tests."""
    import hydra

    with initialized():
        return to_config(hydra.compose("config", list(overrides)))
