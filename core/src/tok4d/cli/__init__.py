"""The command line. This table is all that `tok4d --help` needs: a command's module loads when it is run."""

from __future__ import annotations

from typing import Any, NamedTuple

STYLE: dict[str, Any] = {  # of every Typer app here
    "add_completion": False,
    "rich_markup_mode": None,  # rich help costs more than everything else in `tok4d --help`
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


class Command(NamedTuple):
    """Where a command lives ("module:attribute", a function or a Typer app) and its line in the help."""

    target: str
    help: str


COMMANDS = {
    "demo": Command("tok4d.cli.demo:demo", "Fetch photographs, train a tiny tokenizer and show what it restores."),
    "plugins": Command("tok4d.cli.plugins:plugins", "List plugins, what they provide, and why one is not loaded."),
    "train": Command("tok4d.cli.train:train", "Train a tokenizer by a curriculum; resume with --resume."),
    "encode": Command("tok4d.cli.encode:encode", "Turn files into token files."),
    "decode": Command("tok4d.cli.decode:decode", "Restore files from token files alone."),
    "reconstruct": Command("tok4d.cli.reconstruct:reconstruct", "Encode and decode files, and measure the result."),
    "embed": Command("tok4d.cli.embed:embed", "Turn files into one embedding vector each."),
    "classify": Command("tok4d.cli.classify:classify", "Name what files show, among labels given as text."),
    "info": Command("tok4d.cli.info:info", "Describe a file, a model folder or a token file."),
    "config": Command("tok4d.cli.config:app", "Show or validate presets and curricula."),
    "weights": Command("tok4d.cli.weights:app", "Fetch, import, export and initialise weights."),
    "data": Command("tok4d.cli.data:app", "List and fetch data sets."),
    "new-plugin": Command("tok4d.cli.new_plugin:new_plugin", "Write a plugin project with passing tests."),
}
