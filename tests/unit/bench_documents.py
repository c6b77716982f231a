"""Results files made by hand, for tests of what reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tok4d_bench.fingerprint import fingerprint


def record(metric: str, value: float | None, task: str = "photos", **more: Any) -> dict[str, Any]:
    """One figure; `protocol` in `more` is nested and stands for its fingerprint until `write_run`."""
    own = {"stderr": None, "n": 10, "higher_is_better": True, "unit": "", "note": "", "reproducible": True}
    protocol = {"measure": {"name": metric}, "data": {"crop": 256}, "seed": 0}
    return {"task": task, "metric": metric, "value": value, "protocol": protocol, **own, **more}


def write_run(folder: Path, name: str, records: list[dict[str, Any]], digest: str = "", **more: Any) -> Path:
    """A results.json of suite `made` in `folder/name`."""
    protocols = {}
    results = []
    for item in records:
        protocol = item["protocol"]
        protocols[fingerprint(protocol)] = protocol
        results.append({k: v for k, v in item.items() if k != "protocol"} | {"fingerprint": fingerprint(protocol)})
    content: dict[str, Any] = {
        "schema": 1,
        "suite": "made",
        "version": 1,
        "subject": {"name": name, "digest": digest or (name.encode().hex() * 64)[:64], "facts": {}},
        "results": results,
        "protocols": protocols,
        "skipped": [],
        "bad": [],
        "seed": 0,
        **more,
    }
    path = folder / name / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path
