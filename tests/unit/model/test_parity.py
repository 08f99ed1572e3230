"""The whole model against transformers, in float32 and one process."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch

from components.data.packing import EncodedSample, PackedBatch, pack
from components.errors import ConfigurationError, InputError, StageError
from components.model.checkpoint.sharded import load_model, save_model
from components.model.config import ModelConfig, read_model_config
from components.model.decoding import Decoder, generate
from components.model.distributed import initialize, seed_everything, single_process
from components.model.recompute import Recompute
from components.model.sampling_settings import GREEDY, Sampling
from components.model.vlm import VisionLanguageModel, build_model, gather_logits
from tests.support.model_samples import (
    FIRST_TEXT_TOKEN,
    IMAGE_TOKEN,
    TOLERANCE,
    VOCABULARY,
    packed,
    pixel_values,
    samples,
)
from tests.support.model_world import World, build_world, projector_weights, reference_logits


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module", autouse=True)
def processes(world: World) -> Iterator[None]:
    with single_process():
        yield


@pytest.fixture
def model(world: World) -> VisionLanguageModel:
    return loaded(world)


def loaded(world: World, **arguments: object) -> VisionLanguageModel:
    built = build_model(read_model_config(world.model), **arguments)
    load_model(built, world.model / "checkpoint")
    return built.eval()


def test_stages_record_a_tight_difference(world: World) -> None:
    assert world.facts["language"]["max_logit_difference"] <= TOLERANCE
    assert world.facts["vision"]["max_logit_difference"] <= TOLERANCE


def test_packed_logits_equal_transformers_sample_by_sample(world: World, model: VisionLanguageModel) -> None:
    batch = packed(samples())
    with torch.no_grad():
        found = model(batch, pixel_values(batch))[:, :VOCABULARY]
        expected = torch.cat([reference_logits(world, projector_weights(model), sample) for sample in samples()])
    assert expected.abs().max() > 1
    assert (found - expected).abs().max() <= TOLERANCE


def test_loss_and_gradients_equal_transformers(world: World, model: VisionLanguageModel) -> None:
    batch = packed(samples())
    losses = model(batch, pixel_values(batch), compute_loss=True)
    losses.sum().backward()
    projector = projector_weights(model)
    world.language.zero_grad()
    world.vision.zero_grad()
    logits = torch.cat([reference_logits(world, projector, sample) for sample in samples()])
    expected = torch.nn.functional.cross_entropy(logits, batch.labels, ignore_index=-100, reduction="none")
    expected.sum().backward()
    assert losses.dtype == torch.float32
    assert (losses - expected).abs().max() <= TOLERANCE
    assert bool((losses[batch.labels == -100] == 0).all())
    own = dict(model.named_parameters())
    pairs = [
        (own["vision_model.conv1.weight"].grad, world.vision.get_parameter("embeddings.patch_embedding.weight").grad),
        (
            own["language_model.embedding.word_embeddings.weight"].grad[:VOCABULARY],
            world.language.get_parameter("model.embed_tokens.weight").grad,
        ),
        (
            own["language_model.output_layer.weight"].grad[:VOCABULARY],
            world.language.get_parameter("lm_head.weight").grad,
        ),
    ]
    pairs += [(own[f"vision_projection.{name}"].grad, weight.grad) for name, weight in projector.items()]
    for found, reference in pairs:
        assert (found - reference).abs().max() <= 2e-5 * reference.abs().max()
    assert not own["language_model.output_layer.weight"].grad[VOCABULARY:].any()


def test_packed_equals_separate(model: VisionLanguageModel) -> None:
    batch = packed(samples())
    together = model(batch, pixel_values(batch), compute_loss=True)
    single = [packed([sample]) for sample in samples()]
    apart = torch.cat([model(one, pixel_values(one) if len(one.pixels) else None, compute_loss=True) for one in single])
    assert (together - apart).abs().max() <= TOLERANCE


@pytest.mark.parametrize("room", ["all", "half", "longest"])
def test_gradients_do_not_depend_on_the_packing(model: VisionLanguageModel, room: str) -> None:
    def gradients(batches: list[PackedBatch]) -> dict[str, torch.Tensor]:
        model.zero_grad()
        answers = sum(int((batch.labels != -100).sum()) for batch in batches)
        for batch in batches:
            pixels = pixel_values(batch) if len(batch.pixels) else None
            (model(batch, pixels, compute_loss=True).sum() / answers).backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    chosen = samples()
    lengths = [sample.length for sample in chosen]
    limit = {"all": sum(lengths), "half": (sum(lengths) + max(lengths)) // 2, "longest": max(lengths)}[room]
    expected = gradients([packed([sample]) for sample in chosen])
    found = gradients(pack(chosen, limit))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= 2e-5 * gradient.abs().max(), name


def test_decoding_with_cache_equals_reading_everything_again(model: VisionLanguageModel) -> None:
    chosen = samples()
    batch = packed(chosen)
    decoder = Decoder(model, batch, pixel_values(batch), 4)
    ends = batch.cu_seqlens[1:].long() - 1
    with torch.no_grad():
        expected = model(batch, pixel_values(batch))[ends]
    assert (decoder.logits - expected)[:, :VOCABULARY].abs().max() <= TOLERANCE
    for step in range(3):
        if step == 2:  # the last sample takes the place of the first, which is done
            order = decoder.keep([1, 3])
            assert order == [3, 1]
            chosen = [chosen[place] for place in order]
        new = torch.arange(len(chosen)) + 10 * (step + 1)
        decoder.step(new)
        chosen = [append(sample, int(token)) for sample, token in zip(chosen, new, strict=True)]
        again = packed(chosen)
        with torch.no_grad():
            expected = model(again, pixel_values(again))[again.cu_seqlens[1:].long() - 1]
        assert (decoder.logits - expected)[:, :VOCABULARY].abs().max() <= TOLERANCE
    with pytest.raises(StageError, match="full"):
        decoder.step(new)


def test_prompts_that_outgrow_the_positions_are_refused(model: VisionLanguageModel) -> None:
    positions = model.architecture.language.max_position_embeddings
    with pytest.raises(StageError, match="max_position_embeddings"):
        generate(model, samples(), end_tokens=[2], max_new_tokens=positions)


def append(sample: EncodedSample, token: int) -> EncodedSample:
    tokens = torch.cat([sample.tokens, torch.tensor([token])])
    return dataclasses.replace(sample, tokens=tokens, labels=torch.full_like(tokens, -100))


def test_padded_vocabulary_never_wins(model: VisionLanguageModel) -> None:
    batch = packed(samples())
    logits = gather_logits(model(batch, pixel_values(batch)))
    assert logits.shape[1] == 336
    assert bool((logits[:, VOCABULARY:] == float("-inf")).all())
    assert bool(torch.isfinite(logits[:, :VOCABULARY]).all())


def test_frozen_parts_get_no_gradient_and_the_rest_does(world: World) -> None:
    model = loaded(world)
    model.freeze(["language", "vision"])
    batch = packed(samples())
    model(batch, pixel_values(batch), compute_loss=True).sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("vision_projection.")}
    assert all(parameter.grad.abs().max() > 0 for parameter in model.vision_projection.parameters())


def test_recomputed_layers_give_the_same_bits_from_fewer_kept_tensors(world: World) -> None:
    batch = packed(samples())
    losses, gradients, kept = {}, {}, {}
    for recompute in get_args(Recompute):
        model = loaded(world, hidden_dropout=0.2, attention_dropout=0.1, recompute=recompute).train()
        seed_everything(3)
        kept[recompute] = KeptElements()
        with torch.autograd.graph.saved_tensors_hooks(kept[recompute].pack, lambda tensor: tensor):
            losses[recompute] = model(batch, pixel_values(batch), compute_loss=True)
        losses[recompute].sum().backward()
        gradients[recompute] = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert kept["full"].total < kept["selective"].total < kept["none"].total
    for recompute in ("selective", "full"):
        assert torch.equal(losses[recompute], losses["none"])
        for name, gradient in gradients["none"].items():
            assert torch.equal(gradients[recompute][name], gradient), name


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputed_layers_show_torch_their_tensors(
    world: World, recompute: Recompute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch restores the generators of the devices of positional arguments alone; tests/gpu compares the gradients."""
    seen = []

    def checkpoint(function: Callable[..., object], *args: object, **kwargs: object) -> object:
        seen.append((args, kwargs))
        return function(*args)

    monkeypatch.setattr("components.model.recompute.checkpoint", checkpoint)
    batch = packed(samples())
    loaded(world, recompute=recompute).train()(batch, pixel_values(batch), compute_loss=True)
    assert len(seen) == 3  # layers
    for args, kwargs in seen:
        assert any(isinstance(value, torch.Tensor) and value.shape[-1] == 48 for value in args)
        assert kwargs == {"use_reentrant": False}


class KeptElements:
    """Counts the elements of what autograd keeps for the backward pass."""

    def __init__(self) -> None:
        self.total = 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        self.total += tensor.numel()
        return tensor


def test_attention_dropout_acts_in_training_alone(world: World) -> None:
    batch = packed(samples())
    plain, dropping = loaded(world), loaded(world, attention_dropout=0.2)
    expected = plain(batch, pixel_values(batch), compute_loss=True)
    assert torch.equal(dropping(batch, pixel_values(batch), compute_loss=True), expected)
    assert (dropping.train()(batch, pixel_values(batch), compute_loss=True) - expected).abs().max() > 0.01


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_vision_keeps_nothing_for_a_backward_pass(world: World, frozen: bool) -> None:
    model = loaded(world).train()
    if frozen:
        model.freeze(["vision"])
    kept = KeptElements()
    hooks = torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor)
    model.vision_model.register_forward_pre_hook(lambda *_: hooks.__enter__())
    model.vision_model.register_forward_hook(lambda *_: hooks.__exit__(None, None, None))
    batch = packed(samples())
    model(batch, pixel_values(batch), compute_loss=True)
    assert (kept.total == 0) is frozen


def test_nothing_is_compiled(model: VisionLanguageModel) -> None:
    batch = packed(samples())
    torch.compiler.set_stance("fail_on_recompile")
    try:
        model.train()(batch, pixel_values(batch), compute_loss=True).sum().backward()
    finally:
        torch.compiler.set_stance("default")


def test_bfloat16_model_loads_a_float32_checkpoint(world: World) -> None:
    model = loaded(world, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    batch = packed(samples())
    losses = model(batch, pixel_values(batch), compute_loss=True)
    exact = loaded(world)(batch, pixel_values(batch), compute_loss=True)
    assert losses.dtype == torch.float32
    assert (losses - exact).abs().max() < 0.3


def test_batch_without_answers_has_zero_loss_and_a_graph(model: VisionLanguageModel) -> None:
    batch = packed(samples())
    batch.labels = torch.full_like(batch.labels, -100)
    loss = model(batch, pixel_values(batch), compute_loss=True).sum()
    loss.backward()
    assert loss.item() == 0


def test_pictures_must_match_image_tokens(model: VisionLanguageModel) -> None:
    batch = packed(samples())
    with pytest.raises(StageError, match="36 image tokens, but 3 pictures of 9"):
        model(batch, pixel_values(batch)[:-1])
    with pytest.raises(StageError, match="0 pictures"):
        model(batch, None)


def test_sample_longer_than_the_positions_is_refused(model: VisionLanguageModel) -> None:
    (sample, *_) = samples()
    for _ in range(128):
        sample = append(sample, 9)
    batch = packed([sample])
    with pytest.raises(StageError, match="at most 128"):
        model(batch, pixel_values(batch))


def test_wrong_rotary_base_and_wrong_activation_are_seen(world: World) -> None:
    config = read_model_config(world.model)
    right = loaded(world)
    batch = packed(samples())
    for part, change in (("language", {"rotary_base": 1e4}), ("vision", {"activation": "gelu"})):
        wrong = build_model(config.model_copy(update={part: getattr(config, part).model_copy(update=change)}))
        load_model(wrong, world.model / "checkpoint")
        with torch.no_grad():
            difference = wrong.eval()(batch, pixel_values(batch)) - right(batch, pixel_values(batch))
        assert difference[:, :VOCABULARY].abs().max() > 100 * TOLERANCE, part


def test_seeded_initialisation_is_repeatable_and_leaves_the_global_generator_alone(world: World) -> None:
    config = read_model_config(world.model)
    before = torch.get_rng_state()
    first, second, third = (dict(build_model(config, init_seed=seed).named_parameters()) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["vision_model.conv1.weight"], third["vision_model.conv1.weight"])


def test_damaged_or_foreign_checkpoint_is_refused(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    model = loaded(world)
    with pytest.raises(InputError, match="not a finished"):
        load_model(model, folder)
    save_model(model, folder)
    config = read_model_config(world.model)
    for change in ({"ffn_hidden_size": 64}, {"num_layers": 2}, {"num_layers": 4}, {"padded_vocabulary_size": 344}):
        language = config.language.model_copy(update=change)
        with pytest.raises(InputError, match="does not fit"):
            load_model(build_model(config.model_copy(update={"language": language})), folder)
    victim = max(folder.glob("*.distcp"), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:100])
    with pytest.raises(InputError, match="damaged"):
        load_model(model, folder)


def test_a_new_save_replaces_an_old_one(world: World, tmp_path: Path) -> None:
    model = loaded(world)
    for _ in range(2):
        save_model(model, tmp_path / "checkpoint")
    load_model(model, tmp_path / "checkpoint")


def test_world_size_must_be_a_multiple() -> None:
    with pytest.raises(ConfigurationError, match="1 processes"):
        initialize(2)


def test_image_settings_must_be_the_towers(world: World) -> None:
    content = read_model_config(world.model).model_dump()
    content["image"]["size"] = 48
    with pytest.raises(ValueError, match=r"image\.size 48"):
        ModelConfig.model_validate(content)


def test_no_answer_holds_the_image_token(world: World, tmp_path: Path) -> None:
    model = loaded(world)
    with torch.no_grad():
        weight = model.language_model.output_layer.weight
        weight[IMAGE_TOKEN] = 50 * weight[FIRST_TEXT_TOKEN]  # what a hardly trained model may do
        batch = packed(samples())
        likeliest = model(batch, pixel_values(batch)).argmax(dim=-1)
    assert int((likeliest == IMAGE_TOKEN).sum()) > 1
    for sampling in (GREEDY, Sampling(temperature=1.0)):
        answers = generate(model.eval(), samples(), end_tokens=(), max_new_tokens=6, sampling=sampling)
        assert all(IMAGE_TOKEN not in answer for answer in answers)
