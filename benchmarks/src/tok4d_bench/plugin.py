"""What benchmarks add to tok4d. Light on purpose: the host imports it to list plugins, so nothing heavy loads here."""

from __future__ import annotations

from pathlib import Path

from tok4d.plugins.hookspecs import Register, hookimpl

HOOK_API_VERSION = 1


@hookimpl
def tok4d_register_commands(register: Register) -> None:
    register("bench", "tok4d_bench.cli.app:app")


@hookimpl
def tok4d_register_metrics(register: Register) -> None:
    measures = "tok4d_bench.measures"
    register("psnr", f"{measures}.pictures:PSNR")
    register("psnr_pooled", f"{measures}.pictures:PooledPSNR")
    register("ssim", f"{measures}.pictures:SSIM")
    register("ms_ssim", f"{measures}.pictures:MSSSIM")
    register("lpips", f"{measures}.pictures:LPIPS")
    register("mesh3d/view_lpips", f"{measures}.views:ViewLPIPS")
    register("frechet", f"{measures}.frechet:FrechetDistance")
    register("kid", f"{measures}.kernel:KernelDistance")
    register("fvd", f"{measures}.frechet:VideoDistance")
    register("zero_shot", f"{measures}.understanding:ZeroShot")
    register("retrieval", f"{measures}.understanding:Retrieval")
    register("linear_probe", f"{measures}.probe:LinearProbe")
    register("codebook", f"{measures}.codes:Codebook")
    register("rate", f"{measures}.codes:Rate")
    register("speed", f"{measures}.speed:Speed")


@hookimpl
def tok4d_register_baselines(register: Register) -> None:
    from tok4d_bench.subjects.kinds import KINDS

    for name, kind in KINDS.items():
        register(name, kind.target)


@hookimpl
def tok4d_config_dirs() -> list[Path]:
    return [Path(__file__).parent]
