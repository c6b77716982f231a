"""`tok4d bench`: a group whose commands load when they are run. Light: `tok4d bench --help` loads no torch."""

from __future__ import annotations

from typing import Any

import typer

from tok4d.cli import STYLE, Command
from tok4d.cli.main import LazyGroup, QuickCommand
from tok4d.errors import unknown_name
from tok4d.plugins.targets import resolve

COMMANDS = {
    "list": Command("tok4d_bench.cli.listing:list_", "List suites, data layouts, measures and baselines."),
    "validate": Command("tok4d_bench.cli.validate:validate", "Check data and weights for a suite before it runs."),
    "run": Command("tok4d_bench.cli.run:run", "Run a suite on models and baselines; goes on where it stopped."),
    "compare": Command("tok4d_bench.cli.compare:compare", "Put runs and published figures side by side."),
    "report": Command("tok4d_bench.cli.report:report", "Write a web page of runs: figures, samples, distributions."),
    "score": Command("tok4d_bench.cli.score:score", "Score any tokenizer from two folders of files."),
    "sensitivity": Command("tok4d_bench.cli.sensitivity:sensitivity", "How far choices of a protocol move figures."),
    "card": Command("tok4d_bench.cli.card:card", "Describe a model's latents, codes, seams, and what a probe reads."),
    "explain": Command("tok4d_bench.cli.explain:explain", "Explain a loss: distances in parts, gradients, landscape."),
}


class BenchGroup(LazyGroup):
    """The commands of the table above."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        single = typer.Typer(**STYLE)
        single.command(cmd_name, cls=QuickCommand)(resolve(COMMANDS[cmd_name].target))
        return typer.main.get_command(single)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not args[0].startswith("-") and args[0] not in COMMANDS:
            ctx.fail(unknown_name("command", args[0], COMMANDS))
        return super(LazyGroup, self).resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])


app = typer.Typer(cls=BenchGroup, no_args_is_help=True, **STYLE)


@app.callback()
def root() -> None:
    """Measure tokenizers, ours and others', under one protocol."""
