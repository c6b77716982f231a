"""Subjects: what benchmarks measure. Our models, codecs that need no weights, and models of other libraries.

`load_subject("runs/tiny/model")`, `load_subject("jpeg,bpp=0.5")`, `load_subject("diffusers:FOLDER,subfolder=vae")`.
A kind is a class of `tok4d_bench.contracts.Subject` whose constructor takes (source, *, device, dtype, **options);
kinds of other packages come through the hook `tok4d_register_baselines`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tok4d_bench.subjects.kinds import KindRow, kind_names, kind_rows, make
from tok4d_bench.subjects.spec import SubjectSpec, lasting, parse_spec

if TYPE_CHECKING:
    from tok4d_bench.contracts import Subject

__all__ = ["KindRow", "SubjectSpec", "kind_names", "kind_rows", "load_subject", "parse_spec"]

DTYPES = ("float32", "bf16")


def load_subject(spec: str, device: str = "cpu", dtype: str = "float32") -> Subject:
    """The subject that a spec names.

    Args:
        spec: the path of a model folder, `KIND`, `KIND:SOURCE` or `KIND:SOURCE,option=value,...`. Every kind takes
            `name=...`, what tables call it; device and dtype can be given as options too.
        device: where networks run; `auto` is the first GPU, else the CPU.
        dtype: precision of networks, `float32` or `bf16`.

    Raises:
        Tok4dError: for an unknown kind or option, a missing package or folder, and broken weights.
    """
    from tok4d.cli.files import pick_device
    from tok4d.errors import ConfigError, unknown_name
    from tok4d.plugins.registry import names

    asked = parse_spec(spec, kind_names())
    options = dict(asked.options)
    name = options.pop("name", None)
    device, dtype = str(options.pop("device", device)), str(options.pop("dtype", dtype))
    if dtype not in DTYPES:
        raise ConfigError(unknown_name("dtype", dtype, DTYPES))
    subject = make(asked.kind, asked.source, options, str(pick_device(device)), dtype)
    if name is not None:
        subject.name = str(name)
    whole = lasting(asked, names("sources"))
    subject.spec = whole if "dtype" in asked.options or dtype == DTYPES[0] else f"{whole},dtype={dtype}"
    return subject
