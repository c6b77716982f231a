"""Strict YAML loading: structured dataclasses, `extends:`, dotlist overrides, and "Did you mean" for every typo."""

from __future__ import annotations

import re
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
MAX_VALUES = 100_000


class _Yaml(yaml.SafeLoader):
    """YAML as people expect it: `1e-4` is a number (YAML 1.1 reads text), and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a key must be a name, not a list or mapping", problem_mark=key.start_mark
                )
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return dict(super().construct_mapping(node, deep))


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


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
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Yaml)  # a SafeLoader
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist, bytes that are no text
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a configuration must be a mapping of keys, got {type(data).__name__}")
    _refuse_huge(path, data)
    return data


def _refuse_huge(path: Path, data: Any) -> None:
    """Count what aliases unfold to: a few lines of them can mean billions of values."""
    count, open_ = 0, [data]
    while open_:
        value = open_.pop()
        count += 1
        if count > MAX_VALUES:
            raise ConfigError(f"{path}: more than {MAX_VALUES} values are too many for a configuration")
        if isinstance(value, (dict, list)):
            open_ += value.values() if isinstance(value, dict) else value


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
        if parent is not None and not isinstance(parent, str):
            raise ConfigError(f"{path}: 'extends' must be one name or path, got {parent!r}")
        data.setdefault("name", path.stem)
        chain.append(data)
        current = path.parent / parent if parent and parent.endswith((".yaml", ".yml")) else parent
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
    except (TypeError, ValueError) as error:  # OmegaConf's own way to say that containers do not fit
        raise ConfigError(f"{where}: {error}") from error


def _as_mapping(overrides: Any) -> dict[str, Any]:
    if isinstance(overrides, Mapping):
        return dict(overrides)
    for item in overrides:
        if "=" not in item:
            raise ConfigError(f"override {item!r} must look like key=value, e.g. stages.images.steps=100")
    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides))))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"overrides {' '.join(overrides)}: {' '.join(str(error).split())}") from error


def _refuse_unknown(schema: Any, data: Any, where: str, prefix: str) -> None:
    """Walk plain data beside the schema; an unknown key fails with the nearest known one."""
    if data is None:
        return
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: {prefix.rstrip('.') or 'a configuration'} must be a mapping of keys, got {data!r}")
    known = {f.name: f for f in fields(schema)}
    blank = schema()
    for key, value in data.items():
        if key not in known:
            raise ConfigError(f"{where}: {unknown_name('key', f'{prefix}{key}', [f'{prefix}{k}' for k in known])}")
        inner = _schema_of(schema, key, getattr(blank, key))
        if inner is None:
            continue
        if isinstance(getattr(blank, key), dict) and value is not None:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: {prefix}{key} must be a mapping of names, got {value!r}")
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
    from tok4d.config.schema import FSQConfig, StageConfig, TaskConfig, TextConfig

    return {
        ("TokenizerConfig", "quantizer"): FSQConfig,
        ("TokenizerConfig", "text"): TextConfig,
        ("Curriculum", "stages"): StageConfig,
        ("StageConfig", "tasks"): TaskConfig,
        ("StageConfig", "every_step"): TaskConfig,
        ("StageConfig", "quantizer"): FSQConfig,
        ("StageConfig", "validation"): TaskConfig,
    }


_NESTED = _nested()
