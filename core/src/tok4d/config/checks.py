"""Checks of values that the schemas share; `what` names the key."""

from __future__ import annotations

from math import inf

from tok4d.errors import ConfigError


def one_of(what: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError unless `value` is among those allowed."""
    if value not in allowed:
        raise ConfigError(f"{what} must be one of {', '.join(allowed)}, got {value!r}")


def positive(what: str, value: float) -> None:
    """Raise ConfigError unless 0 < value < infinity."""
    if not 0 < value < inf:
        raise ConfigError(f"{what} must be positive, got {value}")


def not_negative(what: str, value: float) -> None:
    """Raise ConfigError unless 0 <= value < infinity."""
    if not 0 <= value < inf:
        raise ConfigError(f"{what} must be >= 0, got {value}")
