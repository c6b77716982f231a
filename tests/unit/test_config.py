"""Configuration: every typo is named, at every level; every shipped file loads."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

import tok4d.config
from tok4d.config.loader import from_mapping, load_curriculum, load_preset, read_yaml, to_mapping
from tok4d.config.schema import Curriculum, TaskConfig, TokenizerConfig
from tok4d.data.build import build_source
from tok4d.errors import ConfigError, PluginError
from tok4d.training.check import check_curriculum

SHIPPED = Path(tok4d.config.__file__).parent
TASK = "stages.images.tasks.image"


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("presets/*.yaml")), ids=lambda p: p.stem)
def test_shipped_presets_load_and_survive_a_round_trip(path):
    config = load_preset(path.stem)
    assert config.name == path.stem
    assert asdict(from_mapping(TokenizerConfig, to_mapping(config), "copy")) == asdict(config)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("curricula/*.yaml")), ids=lambda p: p.stem)
def test_shipped_curricula_load_and_everything_they_name_exists(path):
    config = load_curriculum(path.stem)
    check_curriculum(config, fresh=config.init != "siglip2")  # the towers of the paper's curricula are on a hub
    assert asdict(from_mapping(Curriculum, to_mapping(config), "copy")) == asdict(config)


def test_the_papers_batches_of_pictures_are_budgets_of_tokens():
    """2048 pictures, and an eighth of it, of the mean size of a stage's resolutions in patches of 16."""
    for name, batch in (("atoken", 2048), ("base", 256)):
        for stage in load_curriculum(name).stages.values():
            task = stage.tasks["image"]
            mean = sum((side // 16) ** 2 for side in task.options["resolutions"]) / len(task.options["resolutions"])
            assert task.tokens == batch * int(mean)
            assert task.tokens > max(task.options["resolutions"]) ** 2 // 256, "every picture fits into a step"
            assert stage.every_step["image_u"].batch * 256 == 4 * batch * 256


def test_the_papers_mixtures_and_lengths_of_clips():
    """Two ninths pictures; clips of 16 to 32 frames at strides 1-3 and 4-12 in equal parts."""
    stages = load_curriculum("atoken").stages
    for name, ninths in (("video", 6), ("assets", 4), ("discrete", 4)):
        tasks = stages[name].tasks
        assert sum(task.weight for task in tasks.values()) == 9
        assert tasks["image"].weight == 2
        near, far = tasks["video"], tasks["video_far"]
        assert near.weight == far.weight == ninths / 2
        assert [near.options["strides"], far.options["strides"]] == [[1, 3], [4, 12]]
        assert (far.options["frames"], far.options["longest"]) == (16, 32)


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("latnt=3", "'latnt'. Did you mean 'latent'"),
        ("encoder.widht=3", "'encoder.widht'. Did you mean 'encoder.width'"),
        ("quantizer.level=[3]", "'quantizer.level'. Did you mean 'quantizer.levels'"),
    ],
)
def test_typos_in_a_preset(override, error):
    with pytest.raises(ConfigError, match=error):
        load_preset("tiny", [override])


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("presicion=bf16", "'presicion'. Did you mean 'precision'"),
        ("model.presets=tiny", "'model.presets'. Did you mean 'model.preset'"),
        ("stages.images.step=3", "'stages.images.step'. Did you mean 'stages.images.steps'"),
        (f"{TASK}.loses.l1=3", f"Did you mean '{TASK}.losses'"),
        ("stages.images.validation.image.bach=2", "Did you mean 'stages.images.validation.image.batch'"),
        ("stages.images.optimizer.warm_up=3", "Did you mean 'stages.images.optimizer.warmup'"),
        ("order=[image]", r"order names stages \['image'\]"),
        ("stages.images.steps=many", "stages.images.steps: .*'many'"),
        ("stages.images.steps=0", "stages.images.steps must be positive, got 0"),
        ("stages.images.optimizer.betas=[0.9]", r"betas must be two numbers in \[0, 1\), got \[0.9\]"),
        ("stages.images.optimizer.min_lr=-1", "min_lr must be >= 0"),
        ("stages.images.optimizer.lr=nan", "lr must be positive, got nan"),
        (f"{TASK}.weight=inf", "weight of task 'image' must be positive, got inf"),
        (f"{TASK}.source=photos", "needs a source like 'image/folder', got 'photos'"),
        ("stages.images.tasks=[1]", "stages.images.tasks"),
        ("stages.images=null", "stages"),
        ("workers=-1", "workers must be >= 0"),
        ("order=[images,images]", "names a stage twice"),
        ("precision=fp8", "precision must be one of float32, bf16, got 'fp8'"),
        ("seed", "must look like key=value"),
        ("seed=-1", r"seed must be in \[0, 2\^63\), got -1"),
        (f"seed={2**63}", r"seed must be in \[0, 2\^63\), got 9223372036854775808"),
        ("seed=[1", "overrides seed=.1: .*parsing"),
        ("seed=${nowhere}", "nowhere"),
    ],
)
def test_faults_in_a_curriculum(override, error):
    with pytest.raises(ConfigError, match=error):
        load_curriculum("smoke", [override])


@pytest.mark.parametrize(
    ("override", "error"),
    [
        (f"{TASK}.source=image/shaped", "'image/shaped'. Did you mean 'image/shapes'"),
        (f"{TASK}.source=imag/shapes", "imag"),
        ("model.overrides.inputs.imaeg.fit=crop", r"inputs.imaeg: unknown modality 'imaeg'. Did you mean 'image'"),
        ("model.overrides.inputs.image.fit=corp", r"inputs.image: unknown fit 'corp'. Did you mean 'crop'"),
        ("model.overrides.inputs.video.frames=4", "option of modality video 'frames' must be text, got 4"),
        ("model.overrides.inputs.image=3", "inputs.image must be a mapping of options, got 3"),
        ("model.overrides.heads.mesh3d=5", "heads.mesh3d must be a mapping of options, got 5"),
        (f"{TASK}.options.sid=3", "source image/shapes: unknown option 'sid'. Did you mean 'side'"),
        (f"{TASK}.options.split=test", "split must be one of all, train, val, got 'test'"),
        (f"{TASK}.losses.l3=1", "unknown loss 'l3'"),
        (f"{TASK}.losses.l1=-1", "losses.l1: weight must be a number >= 0, got -1"),
        ("stages.images.validation.image.options.conut=3", "'conut'. Did you mean 'count'"),
        ("stages.images.freeze=[decodr]", "'decodr' matches no parameter"),
        ("model.preset=tinny", "'tinny'. Did you mean 'tiny'"),
        ("model.overrides.encoder.block=3", "'encoder.block'. Did you mean 'encoder.blocks'"),
    ],
)
def test_what_a_curriculum_names_is_looked_up_before_training(override, error):
    config = load_curriculum("smoke", [override])
    with pytest.raises((ConfigError, PluginError), match=error):
        check_curriculum(config)


def test_dotlists_and_mappings_override_alike():
    by_text = load_preset("tiny", ["encoder.blocks=2", "latent=24", "cached_steps=0"])
    by_mapping = load_preset("tiny", {"encoder": {"blocks": 2}, "latent": 24, "cached_steps": 0})
    assert asdict(by_text) == asdict(by_mapping)
    assert (by_text.encoder.blocks, by_text.encoder.width, by_text.latent) == (2, 192, 24)
    assert by_text.parameters is None, "the count belongs to the preset as shipped"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_extends_is_followed_base_first(tmp_path):
    write(tmp_path / "a.yaml", "extends: tiny\nlatent: 24\nencoder: {blocks: 2}\n")
    b = write(tmp_path / "b.yaml", "extends: a.yaml\nlatent: 12\nparameters: null\n")
    config = load_preset(b)
    assert (config.name, config.latent, config.encoder.blocks, config.encoder.width) == ("b", 12, 2, 192)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("extends: a.yaml\n", "does it go in a circle"),
        ("extends: [tiny]\n", r"'extends' must be one name or path, got \['tiny'\]"),
        ("extends: tinny\n", "Did you mean 'tiny'"),
        ("extends: other.yaml\n", "no such preset file"),
        ("- 1\n", "must be a mapping of keys, got list"),
        ("", "must be a mapping of keys, got NoneType"),
        ("latent: !!python/object/apply:os.getcwd []\n", "not valid YAML: .*python/object/apply"),
        ("latent: [1\n", "not valid YAML: .*line 2"),
        ("latent: 2024-99-99\n", "not valid YAML: month must be in 1..12"),
        ("latent: 3\nlatent: 4\n", "key 'latent' is given twice"),
        ("[a, b]: 3\n", "not valid YAML: a key must be a name, not a list or mapping .*line 1"),
        ("latent: " + "[" * 700 + "\n", "nested too deeply"),
        ("latent: [" + "1," * 500_000 + "]\n", "is too large for a configuration"),
        ("a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]\n" for i in range(1, 10)), "too many"),
        ("latent: \x00\n", "not valid YAML"),
        ("encoder: {blocks: 1000000000}\n", "blocks must be at most 1000"),
        ("encoder: null\n", "encoder"),
        ("1: 2\n", "unknown key '1'"),
    ],
)
def test_broken_files_are_one_clear_error(tmp_path, text, error):
    path = write(tmp_path / "a.yaml", text)
    with pytest.raises(ConfigError, match=error) as caught:
        load_preset(path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_a_folder(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"latent: \xff\xfe")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)


def test_numbers_are_written_as_people_write_them(tmp_path):
    path = write(tmp_path / "a.yaml", "a: 1e-8\nb: -2.5E+3\nc: 1.0e-3\nd: 3e\ne: 12\nf: .5e1\n")
    assert read_yaml(path) == {"a": 1e-8, "b": -2500.0, "c": 1e-3, "d": "3e", "e": 12, "f": 5.0}


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["encoder.heads=5"], "encoder: width 192 must be divisible by heads 5"),
        (["decoder.heads=16"], "decoder: head dim 12 must be divisible by 8"),
        (["cached_steps=9"], r"cached_steps must be in \[0, tile_steps = 4\], got 9"),
        (["patch_size=[4,16]"], r"three positive integers, got \[4, 16\]"),
        (["quantizer.groups=5"], "needs latent = groups x levels, got 48 != 5 x 6"),
        (["positions=rotary"], "positions must be one of joint, table, rope, got 'rotary'"),
        (["latent=0"], "latent must be positive"),
        (["latent=4.5"], "latent"),
    ],
)
def test_contradictions_in_a_preset(overrides, error):
    with pytest.raises(ConfigError, match=error):
        load_preset("tiny", overrides)


def test_stage_names_are_safe_in_paths():
    for name in ("../up", "a b", "", "-x"):
        stage = load_curriculum("smoke").stages["images"]
        with pytest.raises(ConfigError, match="a stage's name is letters"):
            Curriculum(order=[name], stages={name: stage}).check()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("image/folder", {"path": False}, "source image/folder: path must be of type str, got False"),
        ("image/shapes", {"count": "many"}, "source image/shapes: count must be of type int, got 'many'"),
        ("image/shapes", {"count": True}, "source image/shapes: count must be of type int, got True"),
    ],
)
def test_options_of_another_type_are_refused_by_name(source, options, message):
    with pytest.raises(ConfigError, match=message):
        build_source(TaskConfig(source=source, options=options))


def test_build_source_fills_in_the_modality():
    source = build_source(TaskConfig(source="image/shapes", options={"count": 10, "side": 8}))
    assert (source.modality, len(source)) == ("image", 10)
