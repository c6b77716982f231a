"""Parts of Hugging Face model folders through `transformers`: quietly, strictly, and nothing but safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.weights.hf_folder import CONFIG

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt")
TOKENIZER_FILES = (*VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
INSTALL = 'pip install "tok4d[siglip]"'


def transformers() -> Any:
    """The package.

    Raises:
        ConfigError: when it is not installed, naming what installs it.
    """
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(f"text towers need the package 'transformers' ({error}); {INSTALL}") from error
    return transformers


def read_config(folder: Path) -> Any:
    """The folder's configuration as `transformers` knows it; never code that comes with it.

    Raises:
        DataError: when it is missing, broken or of an unknown model.
    """
    if not (folder / CONFIG).is_file():
        raise DataError(folder, f"not a model folder: it has no {CONFIG}")
    with _errors_of(folder / CONFIG, "cannot be used"):
        return transformers().AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_module(cls: Any, folder: Path, config: Any, device: Any, **options: Any) -> Any:
    """A frozen module in float32 with all its weights from the folder; what else the folder holds stays there.

    Raises:
        DataError: for weights that are missing, broken, or of other shapes than the config says.
    """
    with _errors_of(folder, "its weights cannot be loaded"):
        module, info = cls.from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
        )
        if missing := sorted(map(str, info["missing_keys"])):
            raise DataError(folder, f"its weights lack {', '.join(missing[:3])} ({len(missing)} in all)")
        return module.float().eval().requires_grad_(False).to(device)


def load_tokenizer(folder: Path, vocabulary: int) -> Any:
    """The folder's tokenizer, padding on the right.

    Args:
        vocabulary: how many tokens the tower knows.

    Raises:
        DataError: when it is missing or broken, read as what it is not, cannot pad, or has more tokens than the tower.
    """
    # Without files, some classes of `transformers` quietly give a tokenizer of five tokens.
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise DataError(folder, f"it has no tokenizer ({' or '.join(VOCABULARIES)}); copy its files from the release")
    with _errors_of(folder, "its tokenizer cannot be loaded"):
        tokenizer = transformers().AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, padding_side="right"
        )
        _refuse_reading_as_another(folder, tokenizer)
    if tokenizer.pad_token_id is None:
        raise DataError(folder, "its tokenizer has no padding token")
    if len(tokenizer) > vocabulary:
        raise DataError(folder, f"its tokenizer has {len(tokenizer)} tokens, the tower knows {vocabulary}")
    return tokenizer


def _refuse_reading_as_another(folder: Path, tokenizer: Any) -> None:
    """By the tower's model type, `transformers` may quietly read one algorithm's vocabulary with another algorithm."""
    path, backend = folder / VOCABULARIES[0], getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not path.is_file():
        return
    stored = json.loads(path.read_text(encoding="utf-8"))["model"].get("type")
    used = json.loads(backend.to_str())["model"]["type"]
    if stored is not None and stored != used:
        raise DataError(path, f"is a {stored} tokenizer, but 'transformers' reads it as {used} for this kind of tower")


def describing_files(folder: Path) -> list[bytes]:
    """Content of the files that say how texts become tokens and what the tower is; with the weights, its identity."""
    names = (CONFIG, *TOKENIZER_FILES)
    return [name.encode() + b"\0" + (folder / name).read_bytes() for name in names if (folder / name).is_file()]


@contextmanager
def _errors_of(path: Path, what: str) -> Iterator[None]:
    """Turn whatever `transformers` raises into one line, and keep its own messages off the terminal."""
    logging = transformers().utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    except (Tok4dError, MemoryError):
        raise
    except Exception as error:  # its errors, those of safetensors, tokenizers and JSON have no common base
        said = " ".join(str(error).split())[:200]
        raise DataError(path, f"{what}: {type(error).__name__}: {said}") from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
