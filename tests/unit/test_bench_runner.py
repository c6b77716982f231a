"""The runner: equal bits however the work is cut up, resuming, broken files, what is left out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import bench_made
import numpy as np
import pytest
import torch
from bench_made import Blur, Numbers, pictures, suite_of

from tok4d.errors import Tok4dError
from tok4d.plugins import registry
from tok4d.plugins.loader import Entry
from tok4d_bench import runner
from tok4d_bench.contracts import Requirement, Suite, UnsuitedError
from tok4d_bench.groups import read_groups
from tok4d_bench.planning import Settings
from tok4d_bench.results import Document
from tok4d_bench.runner import Work, run_suite
from tok4d_bench.world import World

KEPT = ("results", "protocols", "bad", "skipped", "values")


@pytest.fixture(autouse=True)
def measures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The made measure by name, and a cache of its own."""
    monkeypatch.setenv("TOK4D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(registry._host().tables["metrics"], "numbers", Entry("made:Numbers", "bench"))
    real = registry.resolve
    monkeypatch.setattr(registry, "resolve", lambda target: Numbers if target == "made:Numbers" else real(target))


def run(suite: Suite, out: Path, subject: Blur | None = None, **work: object) -> dict[str, object]:
    document = run_suite(suite, subject or Blur(), Work(out, **work))  # type: ignore[arg-type]
    assert isinstance(document, Document)
    found = json.loads((out / "made" / document.subject.name / "results.json").read_text())
    return {key: found[key] for key in KEPT}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pictures(tmp_path / "pictures", 14)


def test_figures_do_not_depend_on_batch_size_workers_or_processes(folder: Path, tmp_path: Path) -> None:
    suite = suite_of(folder, ["numbers", "psnr", "image/ssim"], inner_batch=1)  # 14 groups: two blocks
    first = run(suite, tmp_path / "a", batch_size=1, workers=0)
    for name, size, workers in (("b", 7, 1), ("c", 64, 3)):
        assert run(suite, tmp_path / name, batch_size=size, workers=workers) == first
    both = tmp_path / "both"
    assert run_suite(suite, Blur(), Work(both, world=World(1, 2))) is None
    assert not list(both.rglob("results.json"))
    assert run(suite, both, world=World(0, 2)) == first
    samples = [(tmp_path / name / "made/blur/one/samples.parquet").read_bytes() for name in ("a", "b", "c", "both")]
    assert len(set(samples)) == 1


def test_the_inner_batch_is_what_keeps_them_equal(folder: Path, tmp_path: Path) -> None:
    values = []
    for size in (1, 4):
        found = run(suite_of(folder, ["numbers"], inner_batch=size), tmp_path / str(size))
        values.append(found["results"][0]["value"])  # type: ignore[index]
    assert values[0] != values[1]
    assert values[0] == pytest.approx(values[1], rel=0.01)


def test_every_group_is_of_the_inner_batch_and_the_figure_is_right(folder: Path, tmp_path: Path) -> None:
    subject = Blur()
    suite = suite_of(folder, ["numbers"], inner_batch=4)
    found = run(suite, tmp_path / "out", subject)
    assert [len(keys) for keys in subject.calls] == [4] * 4
    assert subject.calls[-1][1:] == [subject.calls[-1][1]] * 3  # 14 = 3 * 4 + 2: the last one fills up
    (record,) = found["results"]  # type: ignore[misc]
    assert record["n"] == 14
    with torch.no_grad():
        originals = [s for g in read_groups(_data(folder), range(4), 4) for s in g.samples[: len(g.kept)]]
        errors = []
        for group in range(4):
            members = originals[group * 4 : group * 4 + 4]
            batch = torch.stack([s.data["image"] for s in [*members, *[members[-1]] * (4 - len(members))]])
            made = subject.net(batch)
            torch.manual_seed(_state(group))
            made = ((made + 0.01 * torch.randn_like(made)).clamp(-1, 1) + 1).mul(127.5).round() / 127.5 - 1
            errors += [
                float((made[i].double() - s.data["image"].double()).square().mean()) for i, s in enumerate(members)
            ]
    assert record["value"] == pytest.approx(np.mean(errors), rel=1e-6)


def _data(folder: Path):  # type: ignore[no-untyped-def]
    from tok4d_bench.data.build import open_data

    return open_data(suite_of(folder, ["numbers"]).tasks["one"], {})


def _state(group: int) -> int:
    from tok4d_bench.working import group_seed

    return group_seed(0, group)


def test_what_is_there_is_not_done_again(folder: Path, tmp_path: Path) -> None:
    suite = suite_of(folder, ["numbers"])
    first = run(suite, tmp_path / "out")
    again = Blur()
    assert run(suite, tmp_path / "out", again) == first
    assert again.calls == []
    more = Blur()
    both = run(suite_of(folder, ["numbers", "psnr"]), tmp_path / "out", more)
    assert len(more.calls) == 4  # for the new measure alone
    assert both["results"][0] == first["results"][0]  # type: ignore[index]


def test_an_interrupted_run_goes_on_where_it_stopped(folder: Path, tmp_path: Path) -> None:
    suite = suite_of(folder, ["numbers", "psnr"], inner_batch=1)
    whole = run(suite, tmp_path / "whole")

    class Dies(Blur):
        def reconstruct(self, samples):  # type: ignore[no-untyped-def]
            if len(self.calls) == 11:
                raise KeyboardInterrupt
            return super().reconstruct(samples)

    with pytest.raises(KeyboardInterrupt):
        run_suite(suite, Dies(), Work(tmp_path / "out"))
    rest = Blur()
    assert run(suite, tmp_path / "out", rest) == whole
    assert 0 < len(rest.calls) < 14


def test_reference_columns_are_kept_for_all_subjects(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Numbers] = []

    class Counting(Numbers):
        def __init__(self, **options: int) -> None:
            super().__init__(**options)
            made.append(self)

    real = registry.resolve
    monkeypatch.setattr(registry, "resolve", lambda target: Counting if target == "made:Numbers" else real(target))
    suite = suite_of(folder, ["numbers"])
    run(suite, tmp_path / "out")
    run(suite, tmp_path / "out", Blur("other", seed=1))
    assert [measure.references for measure in made] == [4, 0]
    run(suite_of(folder, [{"numbers": {"extra": 1}}]), tmp_path / "out")
    assert made[-1].references == 4  # another protocol has columns of its own


def test_a_broken_file_is_named_counted_and_left_out(folder: Path, tmp_path: Path) -> None:
    (folder / "05.png").write_bytes(b"\x89PNG broken")
    (folder / "13.png").write_bytes(b"")
    subject = Blur()
    found = run(suite_of(folder, ["numbers"]), tmp_path / "out", subject)
    bad = found["bad"]
    assert [Path(item["key"]).name for item in bad] == ["05.png", "13.png"]  # type: ignore[union-attr,index]
    assert "0 bytes" in bad[1]["reason"]  # type: ignore[index]
    assert found["results"][0]["n"] == 12  # type: ignore[index]
    names = [Path(key).name for key in subject.calls[1]]
    assert names == ["04.png", "04.png", "06.png", "07.png"]  # a neighbour takes its place
    whole = pictures(tmp_path / "whole", 14)
    values = _column(run, suite_of(whole, ["numbers"]), tmp_path / "whole-out")
    kept = _column(run, suite_of(folder, ["numbers"]), tmp_path / "out")
    same = [i for i in range(14) if i not in (4, 5, 6, 7, 12, 13)]  # groups without a broken file
    by_name = dict(zip([n for n in range(14) if n not in (5, 13)], kept, strict=True))
    assert [by_name[i] for i in same] == [values[i] for i in same]


def _column(run_it, suite: Suite, out: Path) -> list[float]:  # type: ignore[no-untyped-def]
    import pyarrow.parquet as parquet

    run_it(suite, out)
    return parquet.read_table(out / "made/blur/one/samples.parquet").column("numbers.error").to_pylist()


def test_a_folder_of_broken_files_has_no_figure(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", 3)
    for path in folder.iterdir():
        path.write_bytes(b"")
    found = run(suite_of(folder, ["numbers", "psnr"]), tmp_path / "out")
    assert found["results"] == []
    assert [item["what"] for item in found["skipped"]] == ["numbers", "psnr"]  # type: ignore[union-attr,index]
    assert "none of 3 samples" in found["skipped"][0]["why"]  # type: ignore[index]


def test_missing_parts_are_said_and_the_rest_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(self: Numbers) -> list[Requirement]:
        return [Requirement("network x", "not on this machine", "put it there")] if self.extra == 7 else []

    def refuses(self: Numbers, originals, results):  # type: ignore[no-untyped-def]
        if self.extra == 8:
            raise UnsuitedError("blur has no codes")
        return real(self, originals, results)

    real = Numbers.columns
    monkeypatch.setattr(Numbers, "requirements", lacks)
    monkeypatch.setattr(Numbers, "columns", refuses)
    suite = suite_of(folder, [{"numbers": {"extra": 7}}, {"numbers": {"extra": 8}}, "psnr"])
    suite.tasks["none"] = bench_made.TaskSpec(data={"layout": "coco"}, measures=["psnr"])
    suite.tasks["clips"] = bench_made.TaskSpec(data={"source": "video/moving"}, measures=["psnr"])
    suite.tasks["texts"] = bench_made.TaskSpec(
        kind="zero_shot", data={"source": "image/shapes", "options": {"count": 4, "side": 16}}, measures=["zero_shot"]
    )
    found = run(suite, tmp_path / "out")
    assert [record["metric"] for record in found["results"]] == ["psnr"]  # type: ignore[union-attr,index]
    said = {(item["task"], item["what"]): item for item in found["skipped"]}  # type: ignore[union-attr,index]
    assert said["one", "numbers(extra=7): network x"]["fix"] == "put it there"
    assert said["one", "numbers(extra=8)"]["why"] == "blur has no codes"
    assert "--data coco=FOLDER" in said["none", "data coco"]["fix"]
    assert said["clips", "reconstruction of video"]["why"] == "blur does not reconstruct this modality"
    assert said["texts", "zero_shot"]["why"] == "blur embeds no texts"


def test_a_measure_that_fails_on_a_sample_is_left_out_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the group, and whichever process sees it; where the reason is gone, the next run completes it."""
    real = Numbers.columns
    broken = "06.png"

    def refuses(self: Numbers, originals, results):  # type: ignore[no-untyped-def]
        if any(Path(sample.key).name == broken for sample in originals):
            raise Tok4dError("needs at least 31x31 pixels")
        return real(self, originals, results)

    monkeypatch.setattr(Numbers, "columns", refuses)
    suite = suite_of(folder, ["psnr", "numbers", "image/ssim"], inner_batch=2)
    for name, number in (("early", "00"), ("late", "06")):
        broken = f"{number}.png"
        document = run_suite(suite, Blur(), Work(tmp_path / name))
        assert document is not None
        assert document.failed == ["one: numbers"]
        written = json.loads((tmp_path / name / "made/blur/results.json").read_text())
        assert [record["metric"] for record in written["results"]] == ["psnr", "image/ssim"]
        (left,) = written["skipped"]
        assert left["what"] == "numbers"
        assert f"{number}.png: needs at least 31x31 pixels" in left["why"]
    assert run_suite(suite, Blur(), Work(tmp_path / "both", world=World(1, 2))) is None
    document = run_suite(suite, Blur(), Work(tmp_path / "both", world=World(0, 2)))  # waits for no columns of numbers
    assert document is not None
    assert document.failed == ["one: numbers"]
    broken = "none"
    again = run_suite(suite, Blur(), Work(tmp_path / "late"))
    assert again is not None
    assert not again.failed
    assert [record.metric for record in again.results] == ["psnr", "error", "image/ssim"]


def test_values_and_columns_that_are_broken_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Blur):
        def reconstruct(self, samples):  # type: ignore[no-untyped-def]
            made = super().reconstruct(samples)
            made[0].sample.data["image"][0, 0, 0] = float("nan")
            return made

    document = run_suite(suite_of(folder, ["numbers"]), Broken(), Work(tmp_path / "out"))
    assert document is not None
    assert "00.png" in document.skipped[0]["why"]
    assert "not finite" in document.skipped[0]["why"]
    monkeypatch.setattr(Numbers, "columns", lambda self, originals, results: {"error": np.zeros(3)})
    document = run_suite(suite_of(folder, ["numbers"]), Blur(), Work(tmp_path / "other"))
    assert document is not None
    assert "column 'error' must have 4 rows" in document.skipped[0]["why"]


def test_tasks_that_were_not_asked_for_keep_their_figures(folder: Path, tmp_path: Path) -> None:
    suite = suite_of(folder, ["numbers"])
    suite.tasks["two"] = bench_made.TaskSpec(data={"layout": "coco"}, measures=["psnr"])
    suite.tasks["three"] = suite_of(pictures(tmp_path / "few", 3), ["psnr"]).tasks["one"]
    (tmp_path / "few/01.png").write_bytes(b"")
    whole = run(suite, tmp_path / "whole")
    for task in ("three", "two", "one"):
        found = run(suite, tmp_path / "parts", tasks=[task])
    assert found == whole
    assert {record["task"] for record in found["results"]} == {"one", "three"}  # type: ignore[union-attr,index]
    newer = Suite("made", 2, "", suite.tasks)
    found = run(newer, tmp_path / "parts", tasks=["one"])  # figures of another version are not its own
    assert {record["task"] for record in found["results"]} == {"one"}  # type: ignore[union-attr,index]
    assert found["bad"] == found["skipped"] == []


class Fails(Blur):
    """Refuses groups from one on."""

    first = 0

    def reconstruct(self, samples):  # type: ignore[no-untyped-def]
        if any(int(Path(sample.key).stem) >= self.first for sample in samples):
            raise Tok4dError("takes pictures of 16 px alone")
        return super().reconstruct(samples)


def test_a_subject_that_fails_at_first_is_left_out_of_the_task_alone(folder: Path, tmp_path: Path) -> None:
    suite = suite_of(folder, ["numbers"])
    document = run_suite(suite, Fails(), Work(tmp_path / "out"))
    assert document is not None
    assert not document.results
    (skipped,) = document.skipped
    assert skipped["what"] == "numbers"
    assert "group 0 (" in skipped["why"]
    assert "takes pictures of 16 px alone" in skipped["why"]


def test_a_subject_that_fails_later_ends_the_run(folder: Path, tmp_path: Path) -> None:
    subject = Fails()
    subject.first = 4
    with pytest.raises(Tok4dError, match=r"numbers, group 1 \(.*: takes pictures of 16 px alone"):
        run_suite(suite_of(folder, ["numbers"]), subject, Work(tmp_path / "out"))


PEAKS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from bench_made import Blur, suite_of
from tok4d_bench.runner import Work, run_suite
class Large(Blur):
    def reconstruct(self, samples):
        torch.ones(100_000_000)
        return super().reconstruct(samples)
found = []
for subject in (Large("large", 1), Blur()):
    document = run_suite(suite_of(Path(sys.argv[2]), ["speed"]), subject, Work(Path(sys.argv[3])))
    found += [record for record in document.results if record.metric == "peak_memory"]
print("none" if "does not forget" in found[0].note else found[0].value - found[1].value)
"""


def test_a_subject_has_not_the_peak_memory_of_the_one_before(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PEAKS, str(Path(__file__).parent), str(folder), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    if done.stdout.strip() == "none":
        pytest.skip("this system does not forget a peak")
    assert float(done.stdout) > 250  # MB, of 400; the process grows a little


def test_settings_keep_results_apart(folder: Path, tmp_path: Path) -> None:
    suite = suite_of(folder, ["numbers"])
    prints = set()
    for settings in (Settings(), Settings(seed=1), Settings(threads=2)):
        found = run(suite, tmp_path / "out", settings=settings)
        prints.add(found["results"][0]["fingerprint"])  # type: ignore[index]
    run(suite, tmp_path / "out", settings=Settings())
    assert len(prints) == 3
    assert len(list((tmp_path / "out/made/blur/one/columns").iterdir())) == 3


def test_rank_0_does_not_wait_for_ever(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = suite_of(folder, ["numbers"], inner_batch=1)

    def gone() -> None:
        raise Tok4dError("process 1 of 2 ended")

    with pytest.raises(Tok4dError, match="process 1 of 2 ended"):
        run_suite(suite, Blur(), Work(tmp_path / "a", world=World(0, 2), alive=gone))
    monkeypatch.setattr(runner, "IDLE_SECONDS", 0.0)
    with pytest.raises(Tok4dError, match="6 groups have no columns"):
        run_suite(suite, Blur(), Work(tmp_path / "b", world=World(0, 2)))


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, World(0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, World(3, 4)),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, World(1, 2)),
        ({"NODE_RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, World(3, 4)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4"}, World(2, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, World(0, 1)),  # a batch script itself, not a step of it
    ],
)
def test_processes_know_their_place(environ: dict[str, str], wanted: World) -> None:
    assert World.from_environment(environ) == wanted


def test_places_that_cannot_be_are_refused() -> None:
    with pytest.raises(Tok4dError, match="RANK must be a whole number, got 'x'"):
        World.from_environment({"RANK": "x", "WORLD_SIZE": "2"})
    with pytest.raises(Tok4dError, match="rank 2 is not one of 2"):
        World.from_environment({"RANK": "2", "WORLD_SIZE": "2"})
