"""Which tensors are written and how: exact inverse of the conversion for any shape, files that safetensors reads."""

import json
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from components.data.image_settings import ImageSettings
from components.errors import InputError
from components.export.shards import TensorGroup, write_shards
from components.export.tensors import exported_vocabulary, module_name, plan_tensors
from components.model.config import LanguageConfig, ModelConfig, ProjectorConfig, VisionConfig
from components.model.distributed import single_process
from components.model.families.language.decoder import decoder_rules
from components.model.families.vision.clip import CLIP
from components.model.vlm import outlined_model

TOWER = "vision_tower.vision_model."


@pytest.fixture(scope="module", autouse=True)
def processes() -> Iterator[None]:
    with single_process():
        yield


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    groups, per_group, width = (draw(st.integers(1, 3)) for _ in range(3))
    vocabulary = draw(st.integers(3, 40))
    layers = draw(st.integers(1, 3))
    heads, head_width = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    hidden = draw(st.integers(1, 6))
    language = LanguageConfig(
        num_layers=draw(st.integers(1, 2)),
        hidden_size=hidden,
        ffn_hidden_size=draw(st.integers(1, 6)),
        num_attention_heads=groups * per_group,
        num_query_groups=groups,
        kv_channels=2 * width,  # rotary positions turn pairs
        vocabulary_size=vocabulary,
        padded_vocabulary_size=vocabulary + draw(st.integers(0, 20)),
        max_position_embeddings=16,
        rotary_base=1e4,
        norm_epsilon=1e-5,
        tied_embeddings=draw(st.booleans()),
    )
    vision = VisionConfig(
        num_layers=layers,
        hidden_size=heads * head_width,
        ffn_hidden_size=draw(st.integers(1, 6)),
        num_attention_heads=heads,
        image_size=8,
        patch_size=4,
        norm_epsilon=1e-5,
        feature_layer=-draw(st.integers(1, layers)),
    )
    return ModelConfig(
        language=language,
        vision=vision,
        projector=ProjectorConfig(
            depth=draw(st.integers(1, 4)), ffn_hidden_size=draw(st.integers(1, 6)), bias=draw(st.booleans())
        ),
        image=ImageSettings(size=8, patch=4, pixel_shuffle=draw(st.sampled_from([1, 2]))),
        image_token_id=draw(st.integers(0, vocabulary + 5)),
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(models(), st.booleans())
def test_export_inverts_the_conversion_for_any_shape(config: ModelConfig, module_names: bool) -> None:
    outline = outlined_model(config)
    parameters = {
        name: torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        for number, (name, parameter) in enumerate(outline.named_parameters())
    }
    plan = plan_tensors(config, outline, parameters.__getitem__, module_names=module_names)
    written: dict[str, Tensor] = {}
    for group in plan.groups:
        written.update(zip(group.names, group.make(), strict=True))
        assert [tuple(written[name].shape) for name in group.names] == list(group.shapes)
    rows = config.language.vocabulary_size
    name = module_name if module_names else str
    for rule in decoder_rules(config.language):
        sources = [written[name(f"language_model.{source}")] for source in rule.sources]
        if rule.target.endswith(("word_embeddings.weight", "output_layer.weight")):
            assert sources[0].shape[0] == exported_vocabulary(config)
            assert not sources[0][rows:].any()
            assert torch.equal(sources[0][:rows], parameters[f"language_model.{rule.target}"][:rows])
        else:
            assert torch.equal(rule.join(sources), parameters[f"language_model.{rule.target}"])
    for rule in CLIP.rules(config.vision, TOWER):
        assert torch.equal(
            rule.join([written[name(source)] for source in rule.sources]), parameters[f"vision_model.{rule.target}"]
        )
    for number in range(1, config.projector.depth + 1):
        for kind in ("weight", "bias") if config.projector.bias else ("weight",):
            found = written[name(f"multi_modal_projector.linear_{number}.{kind}")]
            assert torch.equal(found, parameters[f"vision_projection.encoder.linear_fc{number}.{kind}"])
    assert set(plan.module_names.values()) == set(written)


def groups_of(values: list[dict[str, Tensor]]) -> list[TensorGroup]:
    return [
        TensorGroup(
            tuple(group), tuple(tuple(value.shape) for value in group.values()), lambda group=group: [*group.values()]
        )
        for group in values
    ]


SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(SHAPES, min_size=1, max_size=3), min_size=1, max_size=6),
    st.integers(1, 600),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_safetensors_reads_what_was_written(shapes: list[list[list[int]]], limit: int, dtype: torch.dtype) -> None:
    values = [
        {f"t{number}.{place}": torch.randn(shape).transpose(0, -1) for place, shape in enumerate(group)}
        for number, group in enumerate(shapes)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_shards(folder, groups_of(values), dtype, limit, lambda _: None)
        found: dict[str, Tensor] = {}
        for path in folder.glob("*.safetensors"):
            part = load_file(path)
            assert all(files[tensor] == path.name for tensor in part)
            within = {tensor.split(".")[0] for tensor in part}
            assert sum(value.nbytes for value in part.values()) <= limit or len(within) == 1
            found.update(part)
            with safe_open(path, framework="pt") as file:
                assert file.metadata() == {"format": "pt"}
        expected = {tensor: value for group in values for tensor, value in group.items()}
        assert found.keys() == expected.keys() == files.keys()
        assert all(torch.equal(found[tensor], value.to(dtype)) for tensor, value in expected.items())
        index = folder / "model.safetensors.index.json"
        assert index.exists() == (len(set(files.values())) > 1)
        if index.exists():
            assert json.loads(index.read_text())["weight_map"] == files


def test_memory_holds_one_group_at_a_time(tmp_path: Path) -> None:
    alive = most = 0

    def make() -> list[Tensor]:
        nonlocal alive, most
        value = torch.zeros(8)
        alive += 1
        most = max(most, alive)

        def gone() -> None:
            nonlocal alive
            alive -= 1

        weakref.finalize(value, gone)
        return [value]

    groups = [TensorGroup((f"t{number}",), ((8,),), make) for number in range(20)]
    write_shards(tmp_path, groups, torch.float32, 100, lambda _: None)
    assert most <= 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_file_with_bad_values_does_not_appear(bad: float, tmp_path: Path) -> None:
    groups = groups_of([{"good": torch.ones(2)}, {"bad": torch.tensor([1.0, bad])}])
    with pytest.raises(InputError, match="bad holds values that are not finite"):
        write_shards(tmp_path, groups, torch.float32, 1000, lambda _: None)
    assert list(tmp_path.iterdir()) == []
