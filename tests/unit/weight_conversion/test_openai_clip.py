"""OpenAI's own CLIP files: a real TorchScript archive, a state dict, and files that must be refused."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.context import RunContext
from components.errors import InputError, StageError
from components.model.config import VisionPart, read_stored
from components.stage.runner import StageOutput
from components.weight_conversion import verify
from components.weight_conversion.config import WeightConversionConfig
from components.weight_conversion.openai_clip import open_openai_file
from components.weight_conversion.stage import run_weight_conversion
from tests.support.families import redraw
from tests.support.model_samples import TOLERANCE
from tests.support.model_world import finished_weights

WIDTH, LAYERS, SIZE, PATCH = 128, 3, 24, 8


class QuickGelu(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values * torch.sigmoid(1.702 * values)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, WIDTH // 64)
        self.ln_1 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(WIDTH, 4 * WIDTH))
        self.mlp.add_module("gelu", QuickGelu())
        self.mlp.add_module("c_proj", nn.Linear(4 * WIDTH, WIDTH))
        self.ln_2 = nn.LayerNorm(WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        normed = self.ln_1(hidden)
        hidden = hidden + self.attn(normed, normed, normed, need_weights=False)[0]
        return hidden + self.mlp(self.ln_2(hidden))


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block() for _ in range(LAYERS)))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.resblocks(hidden)


class Visual(nn.Module):
    """The vision transformer under OpenAI's names, its contrastive output included."""

    def __init__(self) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(WIDTH))
        self.positional_embedding = nn.Parameter(torch.empty((SIZE // PATCH) ** 2 + 1, WIDTH))
        self.proj = nn.Parameter(torch.empty(WIDTH, 32))
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.ln_pre = nn.LayerNorm(WIDTH)
        self.transformer = Blocks()
        self.ln_post = nn.LayerNorm(WIDTH)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).permute(2, 0, 1)
        tokens = torch.cat([self.class_embedding.expand(1, pixels.shape[0], WIDTH), patches])
        hidden = self.transformer(self.ln_pre(tokens + self.positional_embedding[:, None]))
        return self.ln_post(hidden[0]) @ self.proj


class Clip(nn.Module):
    """What a whole CLIP has beside the vision tower, as far as a state dict shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = Visual()
        self.transformer = Blocks()
        self.token_embedding = nn.Embedding(40, WIDTH)
        self.ln_final = nn.LayerNorm(WIDTH)
        self.positional_embedding = nn.Parameter(torch.empty(7, WIDTH))
        self.text_projection = nn.Parameter(torch.empty(WIDTH, 32))
        self.logit_scale = nn.Parameter(torch.zeros([]))
        self.register_buffer("input_resolution", torch.tensor(SIZE))
        self.register_buffer("context_length", torch.tensor(7))
        self.register_buffer("vocab_size", torch.tensor(40))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.visual(pixels)


@pytest.fixture(scope="module")
def clip() -> Clip:
    model = Clip().eval()
    redraw(model, seed=6)
    return model.half()


@pytest.fixture(scope="module")
def archive(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "ViT-tiny.pt"
    torch.jit.trace(clip.float(), torch.zeros(1, 3, SIZE, SIZE), check_trace=False).half().save(str(path))
    clip.half()
    return path


def convert(folder: Path, **settings: Any) -> StageOutput:
    finished_weights(folder / "weights")
    context = RunContext(run_id="t", run_name="t", workspace=folder / "workspace")
    config = WeightConversionConfig(part="vision", **{"tolerance": TOLERANCE, **settings})
    return run_weight_conversion(context, config, folder / "weights")


def placed(folder: Path, content: Path | dict[str, Tensor]) -> Path:
    path = folder / "weights" / "vision" / "ViT-tiny.pt"
    path.parent.mkdir(parents=True)
    if isinstance(content, Path):
        path.write_bytes(content.read_bytes())
    else:
        torch.save(content, path)
    return path


def test_archive_holds_what_the_model_has(archive: Path, clip: Clip) -> None:
    source = open_openai_file(archive)
    expected = clip.state_dict()
    assert source.names == sorted(expected)
    for name, tensor in expected.items():
        assert source.shape(name) == tuple(tensor.shape)
        assert torch.equal(source.tensor(name), tensor), name


@pytest.mark.parametrize("feature_layer", [-1, -2])
def test_archive_is_converted(tmp_path: Path, archive: Path, feature_layer: int) -> None:
    placed(tmp_path, archive)
    output = convert(tmp_path, feature_layer=feature_layer)
    facts = output.manifest.facts
    assert facts["architecture"] == "OpenAI CLIP ViT"
    assert facts["max_logit_difference"] <= TOLERANCE * max(1, facts["largest_logit"])
    stored = read_stored(output.folder, VisionPart).config
    assert (stored.num_attention_heads, stored.image_size, stored.patch_size) == (2, SIZE, PATCH)
    assert (stored.num_layers, stored.activation, stored.feature_layer) == (LAYERS, "quick_gelu", feature_layer)
    assert facts["mapped"] + facts["dropped"] > 40


def test_reference_tower_is_the_archives_own_program(archive: Path) -> None:
    """What conversions are compared with computes what the TorchScript program computes."""
    source = open_openai_file(archive)
    program = torch.jit.load(str(archive)).float().visual
    pixels = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    from components.model.families.vision.openai_clip import openai_vision_config

    tower = verify._OpenAiTower(openai_vision_config(source.names, source.shape, "test", -1))
    tower.load_state_dict({name: source.tensor(f"visual.{name}").float() for name in tower.state_dict()})
    with torch.no_grad():
        patches = program.conv1(pixels).flatten(2).permute(2, 0, 1)
        tokens = torch.cat([program.class_embedding.expand(1, 2, WIDTH), patches])
        hidden = program.transformer(program.ln_pre(tokens + program.positional_embedding[:, None]))
        assert (tower(pixels) - hidden[1:].transpose(0, 1)).abs().max() <= TOLERANCE


@pytest.mark.parametrize("prefix", ["", "visual."])
def test_state_dict_is_converted(tmp_path: Path, clip: Clip, prefix: str) -> None:
    state = clip.state_dict() if prefix else clip.visual.state_dict()
    placed(tmp_path, dict(state))
    assert convert(tmp_path).manifest.facts["dropped"] == (3 if not prefix else 48)


def test_plain_concatenation_of_the_fused_projection_fails(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.model.families.vision import openai_clip

    monkeypatch.setattr(
        openai_clip,
        "_fused_attention_input",
        lambda target, source, config: openai_clip.same(target, source),
    )
    placed(tmp_path, archive)
    with pytest.raises(StageError, match="differs from that of"):
        convert(tmp_path, tolerance=1e-4)


def test_truncated_archive_is_named(tmp_path: Path, archive: Path) -> None:
    path = placed(tmp_path, archive)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"ViT-tiny\.pt is damaged"):
        convert(tmp_path)


def test_program_in_the_pickle_is_refused(tmp_path: Path, archive: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "pwned",))

    path = tmp_path / "attack.pt"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.infolist():
            content = pickle.dumps(Attack()) if member.filename.endswith("data.pkl") else source.read(member)
            target.writestr(member, content)
    with pytest.raises(InputError, match="it refers to"):
        open_openai_file(path)
    torch.save({"weight": Attack()}, tmp_path / "state.pt")
    with pytest.raises(InputError, match="not a file of tensors alone"):
        open_openai_file(tmp_path / "state.pt")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [(("visual.attnpool.positional_embedding",), "one of its ResNets"), (("weight",), "another model")],
)
def test_other_models_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    placed(tmp_path, {name: torch.zeros(4, 4) for name in names})
    with pytest.raises(InputError, match=message):
        convert(tmp_path)


def test_several_files_are_refused(tmp_path: Path, archive: Path) -> None:
    path = placed(tmp_path, archive)
    path.with_name("other.pt").write_bytes(b"")
    with pytest.raises(InputError, match="several"):
        convert(tmp_path)
