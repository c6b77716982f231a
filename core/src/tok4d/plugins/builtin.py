"""What core itself provides, through the same hooks as any plugin. Listed as `core`; cannot be left out."""

from __future__ import annotations

from pathlib import Path

from tok4d.plugins.hookspecs import Register, hookimpl

HOOK_API_VERSION = 1  # stated by hand, as every plugin does: raising the host's version must touch each of them


@hookimpl
def tok4d_register_losses(register: Register) -> None:
    register("l1", "tok4d.losses.terms:L1")
    register("l2", "tok4d.losses.terms:L2")
    register("charbonnier", "tok4d.losses.terms:Charbonnier")
    register("kl", "tok4d.losses.terms:KL")
    register("lpips", "tok4d.losses.perceptual:LPIPSTerm")
    register("gram", "tok4d.losses.perceptual:GramTerm")
    register("teacher", "tok4d.losses.teacher:TeacherTerm")
    register("ssim", "tok4d.losses.structural:SSIMTerm")
    register("ms_ssim", "tok4d.losses.structural:MSSSIMTerm")
    register("distill", "tok4d.losses.semantic:Distillation")
    register("sigmoid", "tok4d.losses.semantic:Sigmoid")


@hookimpl
def tok4d_register_commands(register: Register) -> None:
    from tok4d.cli import COMMANDS

    for name, command in COMMANDS.items():
        register(name, command.target)


@hookimpl
def tok4d_config_dirs() -> list[Path]:
    return [Path(__file__).parent.parent / "config"]
