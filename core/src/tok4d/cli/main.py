"""Entry point `tok4d`: a Typer app whose commands load on first use, and what becomes of errors."""

from __future__ import annotations

import json
import os
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from tok4d import __version__
from tok4d.cli import COMMANDS, STYLE
from tok4d.errors import PluginError, Tok4dError, unknown_name

__all__ = ["STYLE", "app", "main"]

_JSON = "tok4d.json"


def _quick(option: Any) -> Any:
    """`--help` with False for its default: for None, Typer would load pydantic, a third of `tok4d plugins`."""
    if option is not None and option.default is None:
        option.default = False
    return option


class QuickCommand(TyperCommand):
    """A command that starts quickly."""

    def get_help_option(self, ctx: Any) -> Any:
        return _quick(super().get_help_option(ctx))


class LazyGroup(TyperGroup):
    """Commands from a table of strings and from plugins' hooks; a module is imported when its command runs."""

    def get_help_option(self, ctx: Any) -> Any:
        return _quick(super().get_help_option(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        from tok4d.plugins.registry import names

        return [*COMMANDS, *(name for name in names("commands") if name not in COMMANDS)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS and cmd_name not in self.list_commands(ctx):
            return None
        return _load(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if not name.startswith("-") and name not in COMMANDS and name not in self.list_commands(ctx):
            ctx.fail(unknown_name("command", name, self.list_commands(ctx)))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        rows = [(name, COMMANDS[name].help if name in COMMANDS else _origin(name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_JSON] = "--json" in (args[: args.index("--")] if "--" in args else args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Tok4dError as error:
            if ctx.meta.get(_JSON):
                typer.echo(json.dumps({"error": str(error)}))
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from error


def _origin(name: str) -> str:
    """Help line of a plugin's command; its own would cost an import."""
    from tok4d.plugins.registry import provider

    return f"(from plugin {provider('commands', name)})"


def _load(name: str) -> Any:
    """Import a command and make it one that Typer runs."""
    if name in COMMANDS:
        from tok4d.plugins.targets import reason, resolve

        target = COMMANDS[name].target
        try:
            found = resolve(target)
        except ImportError as error:
            raise PluginError(f"command {name!r} cannot be loaded: {target}: {reason(error)}") from error
    else:
        from tok4d.plugins.registry import lookup

        found = lookup("commands", name)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(**STYLE)
        single.command(name, cls=QuickCommand)(found)
        found = single
    return typer.main.get_command(found)


app = typer.Typer(name="tok4d", cls=LazyGroup, no_args_is_help=True, **STYLE)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"tok4d {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Build, train, measure and use unified visual tokenizers."""


def main() -> None:
    """Run the command line. Exit codes: 0; 1 data or run; 2 usage; 130 Ctrl-C."""
    # Before torch loads: by default its threads wait for each other by spinning, and a second program that takes one
    # core makes a training step ten times as slow. Waiting passively costs nothing measurable on a quiet machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(prog_name="tok4d")
    except KeyboardInterrupt:  # outside any command, while modules load
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
