"""Checkpoints parameter by parameter: the same content as a whole save, little memory, nothing half-finished."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from megatron.core.dist_checkpointing import ShardedTensor
from torch import Tensor

from components.errors import InputError
from components.model.checkpoint.blocks import BlockReader
from components.model.checkpoint.sharded import load_model, save_model, save_sharded, stored_tensors
from components.model.checkpoint.streamed import ParameterReader, save_streamed
from components.model.config import LanguageConfig, ModelConfig, ProjectorConfig, VisionConfig
from components.model.decoding import generate
from components.model.distributed import single_process
from components.model.streaming import layers_streamed
from components.model.vlm import VisionLanguageModel, build_model, outlined_model
from tests.support.model_samples import IMAGE, IMAGE_TOKEN, packed, pixel_values, samples
from tests.support.paths import ROOT


def architecture(tied: bool = False, **language: int) -> ModelConfig:
    sizes = {"num_layers": 3, "hidden_size": 48, "ffn_hidden_size": 80, "num_attention_heads": 4}
    decoder = {"num_query_groups": 2, "kv_channels": 16, "vocabulary_size": 330, "padded_vocabulary_size": 336}
    return ModelConfig(
        language=LanguageConfig(
            **{**sizes, **decoder, **language},
            max_position_embeddings=128,
            rotary_base=1e6,
            norm_epsilon=1e-5,
            tied_embeddings=tied,
        ),
        vision=VisionConfig(
            **{**sizes, "hidden_size": 32}, image_size=IMAGE.size, patch_size=IMAGE.patch, norm_epsilon=1e-5
        ),
        projector=ProjectorConfig(ffn_hidden_size=40),
        image=IMAGE,
        image_token_id=IMAGE_TOKEN,
    )


@pytest.fixture(autouse=True)
def process() -> Iterator[None]:
    with single_process():
        yield


def drawn(config: ModelConfig) -> VisionLanguageModel:
    model = build_model(config, init_seed=1, init_std=0.1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def values(model: VisionLanguageModel) -> Callable[[str], Tensor]:
    return lambda name: model.get_parameter(name).detach()


@pytest.mark.parametrize("tied", [False, True])
def test_streamed_save_is_a_whole_save(tmp_path: Path, tied: bool) -> None:
    config = architecture(tied)
    model = drawn(config)
    save_model(model, tmp_path / "whole")
    save_streamed(outlined_model(config), tmp_path / "streamed", values(model))
    assert stored_tensors(tmp_path / "streamed") == stored_tensors(tmp_path / "whole")
    again = build_model(config)
    load_model(again, tmp_path / "streamed")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name


def test_each_parameter_is_asked_for_once(tmp_path: Path) -> None:
    config = architecture()
    asked = []
    model = drawn(config)

    def read(name: str) -> Tensor:
        asked.append(name)
        return values(model)(name)

    save_streamed(outlined_model(config), tmp_path, read)
    assert sorted(asked) == sorted(name for name, _ in model.named_parameters())


def test_single_parameters_are_read_in_the_outlines_type(tmp_path: Path) -> None:
    config = architecture()
    model = drawn(config)
    save_model(model, tmp_path)
    reader = ParameterReader(outlined_model(config, torch.bfloat16), tmp_path)
    assert sorted(reader.names) == sorted(name for name, _ in model.named_parameters())
    for name in reader.names:
        assert torch.equal(reader(name), model.get_parameter(name).to(torch.bfloat16)), name


@pytest.mark.parametrize("tied", [False, True])
def test_model_runs_with_one_layer_in_memory(tmp_path: Path, tied: bool) -> None:
    config = architecture(tied)
    model = drawn(config)
    save_model(model, tmp_path)
    outline = outlined_model(config).eval()
    reader = ParameterReader(outline, tmp_path)
    batch = packed(samples())
    layers = outline.language_model.decoder.layers
    with layers_streamed(outline, layers, reader):
        found = outline(batch, pixel_values(batch))
        assert sum(not weight.is_meta for weight in layers.parameters()) <= len(list(layers[0].parameters()))
    assert all(weight.is_meta for weight in layers.parameters())
    with torch.no_grad():
        assert torch.equal(found, model(batch, pixel_values(batch)))
    with layers_streamed(outline, layers, reader, entry=lambda layer: layer.input_layernorm):
        answers = generate(outline, samples(), end_tokens=[-1], max_new_tokens=4)
    assert answers == generate(model.eval(), samples(), end_tokens=[-1], max_new_tokens=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 2}, r"shape \[3, 48\], the model \[2, 48\]"),
        ({"ffn_hidden_size": 96}, "mlp.linear_fc1.weight has shape"),
        ({"tied": True}, "output_layer.weight has no place in the model"),
    ],
)
def test_foreign_checkpoint_is_refused_before_anything_is_read(
    tmp_path: Path, change: dict[str, int], message: str
) -> None:
    save_model(drawn(architecture()), tmp_path)
    with pytest.raises(InputError, match=message):
        ParameterReader(outlined_model(architecture(**change)), tmp_path)


def test_blocks_are_cut_and_joined_and_none_is_made_up(tmp_path: Path) -> None:
    stored = torch.arange(24.0).reshape(6, 4)
    pieces = {
        f"piece {row}": ShardedTensor.from_rank_offsets("rows", stored[row : row + 2], (0, row // 2, 3))
        for row in (0, 2, 4)
    }
    save_sharded(pieces, tmp_path)
    reader = BlockReader(tmp_path)
    block = torch.full((3, 2), -1.0)
    reader.fill({("rows", (1, 1)): block})
    assert torch.equal(block, stored[1:4, 1:3])
    for key, offset in (("rows", (4, 0)), ("columns", (0, 0))):
        with pytest.raises(InputError, match=rf"does not hold all of {key} at"):
            reader.fill({(key, offset): torch.empty(3, 2)})


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    config = architecture()
    save_streamed(outlined_model(config), tmp_path, values(drawn(config)))
    reader = ParameterReader(outlined_model(config), tmp_path)
    for path in tmp_path.glob("*.distcp"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=f"{tmp_path} is damaged"):
        reader("vision_model.conv1.weight")
    (tmp_path / ".metadata").write_bytes(b"x")
    with pytest.raises(InputError, match="metadata of the checkpoint"):
        ParameterReader(outlined_model(config), tmp_path)


def test_interrupted_save_is_no_checkpoint_and_is_replaced(tmp_path: Path) -> None:
    config = architecture()
    model = drawn(config)

    def failing(name: str) -> Tensor:
        if name.startswith("vision_projection"):
            raise InputError("the source is broken here")
        return values(model)(name)

    with pytest.raises(InputError, match="the source is broken here"):
        save_streamed(outlined_model(config), tmp_path / "checkpoint", failing)
    with pytest.raises(InputError, match="not a finished"):
        load_model(model, tmp_path / "checkpoint")
    save_streamed(outlined_model(config), tmp_path / "checkpoint", values(model))
    load_model(model, tmp_path / "checkpoint")


MEMORY_PROGRAM = """
import sys
from pathlib import Path
import psutil, torch
from components.model.megatron import import_megatron
import_megatron()
from components.model.config import LanguageConfig
from components.model.distributed import single_process
from components.model.language import LanguageModel
from components.model.checkpoint.streamed import ParameterReader, save_streamed
from components.model.streaming import outlined
from components.model.transformer_config import BuildSettings

def write_and_read(layers, hidden, folder):
    config = LanguageConfig(num_layers=layers, hidden_size=hidden, ffn_hidden_size=2 * hidden, num_attention_heads=8,
        num_query_groups=8, kv_channels=hidden // 8, vocabulary_size=1024, padded_vocabulary_size=1024,
        max_position_embeddings=128, rotary_base=1e4, norm_epsilon=1e-5)
    outline = outlined(lambda: LanguageModel(config, BuildSettings()))
    shapes = {name: parameter.shape for name, parameter in outline.named_parameters()}
    save_streamed(outline, folder, lambda name: torch.ones(shapes[name]))
    reader = ParameterReader(outline, folder)
    assert all(bool((reader(name) == 1).all()) for name in reader.names)
    return outline

with single_process():
    write_and_read(1, 64, Path(sys.argv[1]) / "small")  # libraries are loaded on the way
    before = psutil.Process().memory_info().rss
    outline = write_and_read(16, 512, Path(sys.argv[1]) / "large")
# VmHWM, not ru_maxrss: that one begins with the peak of the process that started this one.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
growth = int(peak.split()[1]) * 1024 - before
print(growth / sum(parameter.nbytes for parameter in outline.parameters()))
"""


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY_PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        # Freed tensors go back to the system at once, so that what is counted is what lives.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # A whole copy of the 168 MB would be 1; they are 0.06.
    assert float(done.stdout.splitlines()[-1]) < 0.25
