"""The compiled kernels in threads, in forked and fresh processes, and where compiled code cannot be kept."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import pytest
import torch
from splat_scenes import HEIGHT, NAMES, WIDTH, cameras, random_scene

from tok4d_mesh3d.splatting import compiled, numba_backend, rasterize

HERE = Path(__file__).parent


def draw(seed=0):
    """Image and gradients of a scene of 300, in float32."""
    scene = random_scene("mixed", 300, seed=seed, dtype=torch.float32)
    leaves = {name: value.requires_grad_() for name, value in scene.items()}
    poses, lenses = cameras(seed)
    images, alphas = rasterize(**leaves, world_to_camera=poses, intrinsics=lenses, width=WIDTH, height=HEIGHT)
    (images.square().sum() + alphas.sum()).backward()
    return [images.detach(), alphas.detach(), *(leaves[name].grad for name in NAMES)]


@pytest.fixture
def threads():
    """Sets the number of torch's threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def same(found, wanted):
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_results_do_not_depend_on_the_number_of_threads(threads, monkeypatch):
    monkeypatch.setattr(numba_backend, "RANGE", 64)  # several ranges of Gaussians in so small a scene
    threads(1)
    wanted = draw()
    for count in (2, 3, 7):
        threads(count)
        assert same(draw(), wanted)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_as_many_threads_as_torch_has(threads, monkeypatch, count):
    seen = set()
    plain = numba_backend.blend_band

    def noting(*arguments):
        seen.add(threading.current_thread().name)
        time.sleep(0.02)  # so that every thread gets a band
        plain(*arguments)

    monkeypatch.setattr(numba_backend, "blend_band", noting)
    threads(count)
    draw()
    assert len({name.rpartition("_")[2] for name in seen}) == count


def test_no_thread_is_left_and_none_spins(threads):
    threads(2)
    draw()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("splat")]
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.15


def test_many_callers_at_once(threads):
    threads(2)
    wanted = [draw(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert all(same(found, each) for found, each in zip(pool.map(draw, range(4)), wanted, strict=True))


FORK = """
import sys; sys.path.insert(0, {here!r})
import torch
from torch.utils.data import DataLoader
import test_splatting_threads as t
torch.set_num_threads(2)
wanted = t.draw(0)
class Scenes(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return t.draw(0)
for method, workers in (("fork", 2), ("spawn", 1)):
    loader = DataLoader(Scenes(), batch_size=None, num_workers=workers, multiprocessing_context=method)
    for found in (loader if __name__ == "__main__" else ()):
        assert t.same(found, wanted)
        print(method, flush=True)
"""


def test_loader_workers_forked_after_use_and_fresh(tmp_path):
    script = tmp_path / "loading.py"
    script.write_text(FORK.format(here=str(HERE)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["fork"] * 4 + ["spawn"] * 4, done.stderr


def test_an_error_in_a_thread_is_raised():
    def work(i):
        if i == 3:
            raise ValueError("band 3")

    with pytest.raises(ValueError, match="band 3"):
        compiled.in_parallel(work, 8, 2)


COMPILED = """
import numpy as np
from tok4d_mesh3d.splatting import blend_kernels
boxes = np.array([[0, 3, 0, 9], [0, 3, 8, 15]], np.int32)
offsets, members = blend_kernels.list_bands(boxes, 16)
stats = blend_kernels.list_bands.stats
print(offsets, members, sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def test_compiled_once(tmp_path):
    """Into a folder of choice; a second process finds it there."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for counts in ("0 1", "1 0"):
        run = subprocess.run(
            [sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True, check=True
        )
        assert run.stdout.strip() == f"[0 1 3] [0 0 1] {counts}"


def test_without_a_folder_for_compiled_code_it_works_and_says_so(monkeypatch, caplog):
    plain = numba.njit

    def njit(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'double': no locator available for file 'x.py'")
        return plain(**options)

    monkeypatch.setattr(numba, "njit", njit)
    with caplog.at_level(logging.WARNING):
        double = compiled.compiled(lambda x: x + x)
    assert double(2.0) == 4.0
    assert "no folder for compiled code" in caplog.text
    assert "NUMBA_CACHE_DIR" in caplog.text
