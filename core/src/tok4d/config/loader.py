"""Strict YAML loading: structured dataclasses, `extends:`, dotlist overrides, and "Did you mean" for every typo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from tok4d.config.schema import Curriculum, TokenizerConfig
from tok4d.errors import ConfigError, unknown_name
from tok4d.plugins.registry import find_config

_C = TypeVar("_C", Curriculum, TokenizerConfig)
MAX_EXTENDS = 8
MAX_BYTES = 1_000_000


def load_preset(name: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> TokenizerConfig:
    """A tokenizer configuration by preset name or YAML path.

    Args:
        name: `tiny`, `small`, ..., or a path to a YAML file.
        overrides: `["encoder.blocks=6", ...]` or a nested mapping.

    Raises:
        ConfigError: for an unknown name, key, type, or a contradiction.
    """
    config = _build(TokenizerConfig, _read_chain(name, "presets"), overrides, str(name))
    if overrides:
        config.parameters = None  # the recorded count belongs to the preset as shipped
    return config.check()


def load_curriculum(name: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Curriculum:
    """A curriculum by name or YAML path; arguments and errors as in `load_preset`."""
    return _build(Curriculum, _read_chain(name, "curricula"), overrides, str(name)).check()


def from_mapping(schema: type[_C], data: Mapping[str, Any], where: str) -> _C:
    """A checked configuration from plain data, such as the one saved beside a model."""
    config = _build(schema, [dict(data)], (), where)
    config.check()
    return config


def to_mapping(config: TokenizerConfig | Curriculum) -> dict[str, Any]:
    """Plain data for YAML or JSON; `from_mapping` restores an equal configuration."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(config)))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        ConfigError: for a missing, huge or malformed file, with the line of the fault.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: {path.stat().st_size} bytes is too large for a configuration")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a configuration must be a mapping of keys, got {type(data).__name__}")
    return data


def _read_chain(name: str | Path, kind: str) -> list[dict[str, Any]]:
    """The file and what it extends, base first."""
    chain: list[dict[str, Any]] = []
    current: str | Path | None = name
    while current is not None:
        if len(chain) == MAX_EXTENDS:
            raise ConfigError(f"{name}: 'extends' is nested deeper than {MAX_EXTENDS}; does it go in a circle?")
        path = find_config(kind, str(current))
        data = read_yaml(path)
        parent = data.pop("extends", None)
        data.setdefault("name", path.stem)
        chain.append(data)
        current = path.parent / parent if parent and parent.endswith(".yaml") else parent
    return chain[::-1]


def _build(schema: type[_C], layers: list[dict[str, Any]], overrides: Any, where: str) -> _C:
    layers = [*layers, _as_mapping(overrides)]
    for layer in layers:
        _refuse_unknown(schema, layer, where, "")
    try:
        merged = OmegaConf.structured(schema)
        for layer in layers:
            merged = OmegaConf.merge(merged, layer)
        return cast(_C, OmegaConf.to_object(cast(DictConfig, merged)))
    except ConfigKeyError as error:
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from error
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise ConfigError(f"{where}: {key}{str(error).splitlines()[0]}") from error


def _as_mapping(overrides: Any) -> dict[str, Any]:
    if isinstance(overrides, Mapping):
        return dict(overrides)
    for item in overrides:
        if "=" not in item:
            raise ConfigError(f"override {item!r} must look like key=value, e.g. stages.images.steps=100")
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides))))


def _refuse_unknown(schema: Any, data: Any, where: str, prefix: str) -> None:
    """Walk plain data beside the schema; an unknown key fails with the nearest known one."""
    if not isinstance(data, Mapping):
        return
    known = {f.name: f for f in fields(schema)}
    blank = schema()
    for key, value in data.items():
        if key not in known:
            raise ConfigError(f"{where}: {unknown_name('key', f'{prefix}{key}', [f'{prefix}{k}' for k in known])}")
        inner = _schema_of(schema, key, getattr(blank, key))
        if inner is None:
            continue
        if isinstance(getattr(blank, key), dict) and isinstance(value, Mapping):
            for name, item in value.items():
                _refuse_unknown(inner, item, where, f"{prefix}{key}.{name}.")
        else:
            _refuse_unknown(inner, value, where, f"{prefix}{key}.")


def _schema_of(schema: Any, key: str, value: Any) -> Any:
    """Dataclass behind a field: of the value itself, of a dictionary's items, or of an Optional; None if plain."""
    if is_dataclass(value):
        return type(value)
    return _NESTED.get((schema.__name__, key))


def _nested() -> dict[tuple[str, str], Any]:
    from tok4d.config.schema import FSQConfig, StageConfig, TaskConfig

    return {
        ("TokenizerConfig", "quantizer"): FSQConfig,
        ("Curriculum", "stages"): StageConfig,
        ("StageConfig", "tasks"): TaskConfig,
        ("StageConfig", "validation"): TaskConfig,
    }


_NESTED = _nested()
