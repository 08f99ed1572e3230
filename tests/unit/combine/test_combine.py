"""Combine: nothing missing, the same seed gives the same projector, what does not fit is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from megatron.core.utils import scaled_init_method_normal
from torch import nn

from components.combine.config import ImageChoice, ProjectorSettings
from components.combine.stage import run_combine
from components.data.image_settings import ImageSettings, PixelSettings
from components.errors import ConfigurationError, InputError
from components.model.checkpoint.sharded import load_model
from components.model.config import VisionPart, read_model_config, read_stored, write_stored
from components.model.distributed import single_process
from components.model.vlm import VisionLanguageModel, build_model
from components.stage.runner import StageOutput
from tests.support.model_samples import IMAGE, IMAGE_TOKEN
from tests.support.model_world import World, build_world, combine_config, tokenizer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world"))


def part(world: World, name: str) -> Path:
    (folder,) = (path for path in (world.context.workspace / "weight_conversion" / name).iterdir() if path.is_dir())
    return folder


def combined(world: World, workspace: Path, **changes: object) -> StageOutput:
    context = world.context.model_copy(update={"workspace": workspace})
    return run_combine(context, combine_config(**changes), part(world, "language"), part(world, "vision"))


def loaded(folder: Path) -> VisionLanguageModel:
    with single_process():
        model = build_model(read_model_config(folder))
        load_model(model, folder / "checkpoint")
    return model


def test_model_folder_is_whole(world: World, tmp_path: Path) -> None:
    output = combined(world, tmp_path)
    config = read_model_config(output.folder)
    assert (config.image_token_id, config.image) == (IMAGE_TOKEN, IMAGE)
    assert config.versions["megatron-core"]
    assert (output.folder / "tokenizer" / "tokenizer.json").is_file()
    facts = output.manifest.facts["parameters"]
    assert facts["total"] == sum(parameter.numel() for parameter in loaded(output.folder).parameters())
    assert facts["projector"] == 32 * 40 + 40 * 48


def test_parts_are_unchanged_and_the_projector_follows_its_seed(world: World, tmp_path: Path) -> None:
    first, again, other = (
        loaded(combined(world, tmp_path / str(i), seed=seed).folder) for i, seed in enumerate([5, 5, 6])
    )
    weights, repeated, reseeded = (dict(model.named_parameters()) for model in (first, again, other))
    for name, parameter in weights.items():
        assert torch.equal(parameter, repeated[name]), name
        assert torch.equal(parameter, reseeded[name]) != name.startswith("vision_projection."), name
    embedding = world.language.get_parameter("model.embed_tokens.weight")
    assert torch.equal(weights["language_model.embedding.word_embeddings.weight"][: len(embedding)], embedding)
    projector = torch.cat([parameter.flatten() for parameter in first.vision_projection.parameters()])
    assert abs(float(projector.std()) - 0.2) < 0.01


def projector_of(world: World, workspace: Path, **settings: object) -> dict[str, torch.Tensor]:
    folder = combined(world, workspace, projector=ProjectorSettings(**settings)).folder
    return {name: value.detach() for name, value in loaded(folder).vision_projection.named_parameters()}


def test_a_projector_without_settings_has_two_layers_as_wide_as_the_language_model(
    world: World, tmp_path: Path
) -> None:
    projector = projector_of(world, tmp_path)
    assert {name: tuple(value.shape) for name, value in projector.items()} == {
        "encoder.linear_fc1.weight": (48, 32),
        "encoder.linear_fc2.weight": (48, 48),
    }


def test_a_model_that_has_to_be_stock_is_refused_here_also_when_it_was_finished_before(
    world: World, tmp_path: Path
) -> None:
    context = world.context.model_copy(update={"workspace": tmp_path})
    parts = (part(world, "language"), part(world, "vision"))
    wide, square = combine_config(), combine_config(projector=ProjectorSettings())
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="as wide as the language model .48.*40 wide.*custom_code=true"):
            run_combine(context, wide, *parts, stock=True)
    assert run_combine(context, wide, *parts).folder.is_dir()
    assert run_combine(context, square, *parts, stock=True).folder.is_dir()


def test_the_last_layer_starts_smaller_by_the_layers_of_the_language_model(world: World, tmp_path: Path) -> None:
    """Against megatron-core's own function, which the reference's model is drawn with."""
    layers = world.language.config.num_hidden_layers
    normal, scaled = (
        projector_of(world, tmp_path / init, init=init, init_std=0.2, depth=3, bias=True)
        for init in ("normal", "scaled")
    )
    expected = torch.empty(300_000)
    scaled_init_method_normal(0.2, layers)(expected)
    for number in (1, 2, 3):
        name = f"encoder.linear_fc{number}"
        ratio = scaled[f"{name}.weight"] / normal[f"{name}.weight"]
        wanted = float(expected.std()) / 0.2 if number == 3 else 1.0
        assert (ratio - wanted).abs().max() <= 0.01
        assert not normal[f"{name}.bias"].any()
        assert not scaled[f"{name}.bias"].any()
    single = [projector_of(world, tmp_path / f"one-{init}", init=init, depth=1) for init in ("normal", "scaled")]
    assert torch.equal(single[0]["encoder.linear_fc1.weight"], single[1]["encoder.linear_fc1.weight"])


def test_uniform_is_drawn_as_pytorch_draws_a_linear_layer(world: World, tmp_path: Path) -> None:
    projector = projector_of(world, tmp_path, init="uniform", ffn_hidden_size=400, bias=True)
    for number, layer in enumerate((nn.Linear(32, 400), nn.Linear(400, 48)), start=1):
        for kind in ("weight", "bias"):
            found, reference = projector[f"encoder.linear_fc{number}.{kind}"], layer.get_parameter(kind).detach()
            bound = layer.in_features**-0.5
            assert found.shape == reference.shape
            assert bound * 0.9 < found.abs().max() <= bound
            assert abs(float(found.std() / reference.std()) - 1) < 0.3
    assert projector["encoder.linear_fc1.weight"].std() * 3**0.5 == pytest.approx(32**-0.5, rel=0.02)


def test_pixel_shuffle_widens_the_first_layer_and_takes_fewer_tokens(world: World, tmp_path: Path) -> None:
    output = combined(world, tmp_path, image=ImageChoice(pixel_shuffle=3))
    assert output.manifest.facts["image_tokens"] == 1
    assert loaded(output.folder).vision_projection.get_parameter("encoder.linear_fc1.weight").shape == (40, 32 * 9)


def test_what_is_left_out_is_the_towers(world: World, tmp_path: Path) -> None:
    vision = tmp_path / "vision"
    shutil.copytree(part(world, "vision"), vision)
    stored = read_stored(vision, VisionPart)
    assert stored.pixels == PixelSettings()
    trained = PixelSettings(mean=(0.5, 0.4, 0.3), std=(0.5, 0.4, 0.3), resample="bilinear")
    write_stored(vision, stored.model_copy(update={"pixels": trained}))
    context = world.context.model_copy(update={"workspace": tmp_path / "workspace"})
    own, chosen = (
        read_model_config(
            run_combine(context, combine_config(image=image), part(world, "language"), vision).folder
        ).image
        for image in (ImageChoice(), ImageChoice(mean=(0.1, 0.2, 0.3), size=24, layout="squash"))
    )
    assert own == ImageSettings(**trained.model_dump(), size=24, patch=8, layout="pad")
    assert chosen == own.model_copy(update={"mean": (0.1, 0.2, 0.3), "layout": "squash"})


def test_a_pixel_shuffle_that_does_not_divide_the_patches_is_refused(world: World, tmp_path: Path) -> None:
    message = r"don't fit the weights: pixel_shuffle 2 does not divide the 3 x 3 patches .* set it to one of 1, 3, or"
    with pytest.raises(ConfigurationError, match=message):
        combined(world, tmp_path, image=ImageChoice(pixel_shuffle=2))


@pytest.mark.parametrize("image", [ImageChoice(size=48, patch=8), ImageChoice(patch=12)])
def test_image_settings_must_be_the_towers(world: World, tmp_path: Path, image: ImageChoice) -> None:
    with pytest.raises(ConfigurationError, match="must equal the vision tower's 24 and 8"):
        combined(world, tmp_path, image=image)


def with_published_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    tokenizer(folder / "tokenizer")


def with_small_vocabulary(folder: Path) -> None:
    content = json.loads((folder / "model.json").read_text())
    content["config"]["vocabulary_size"] = 200
    (folder / "model.json").write_text(json.dumps(content))


def without_checkpoint(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoint")


def of_another_width(folder: Path) -> None:
    content = json.loads((folder / "model.json").read_text())
    content["config"]["hidden_size"] = 64
    (folder / "model.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (with_published_tokenizer, "has to be converted again"),
        (with_small_vocabulary, "the language model has 200"),
        (without_checkpoint, "not a finished megatron-core checkpoint"),
        (of_another_width, "does not fit the model"),
    ],
)
def test_what_does_not_fit_is_refused(
    world: World, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    language = tmp_path / "language"
    shutil.copytree(part(world, "language"), language)
    spoil(language)
    context = world.context.model_copy(update={"workspace": tmp_path / "workspace"})
    with pytest.raises(InputError, match=message):
        run_combine(context, combine_config(), language, part(world, "vision"))


def test_parts_of_different_types_are_refused(world: World, tmp_path: Path) -> None:
    language = tmp_path / "language"
    shutil.copytree(part(world, "language"), language)
    content = json.loads((language / "model.json").read_text())
    (language / "model.json").write_text(json.dumps({**content, "dtype": "bfloat16"}))
    context = world.context.model_copy(update={"workspace": tmp_path / "workspace"})
    with pytest.raises(
        ConfigurationError, match=r"stored as bfloat16, the vision tower as float32: set weight_conversion"
    ):
        run_combine(context, combine_config(), language, part(world, "vision"))


def test_exchanged_parts_are_refused(world: World, tmp_path: Path) -> None:
    context = world.context.model_copy(update={"workspace": tmp_path})
    with pytest.raises(InputError, match="does not describe a LanguagePart"):
        run_combine(context, combine_config(), part(world, "vision"), part(world, "language"))
