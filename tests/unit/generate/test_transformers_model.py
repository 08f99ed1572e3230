"""Models of transformers: answers in batches equal those of transformers alone, one by one; our exports answer as our checkpoints do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.modeling_outputs import BaseModelOutputWithPooling

from components.context import RunContext
from components.data.pictures import Pictures
from components.errors import ConfigurationError, InputError, StageError
from components.export.config import ExportConfig
from components.export.stage import run_export
from components.generate.answerer import Asking, Place
from components.generate.answerers.transformers_model import TransformersModel, torchvision_problem
from components.generate.config import CallsConfig, GenerateConfig
from components.generate.controls import BLANK_SIDE, blank_like
from components.generate.encoded_pictures import EncodedPictures
from components.generate.requests import ModelInput
from components.generate.stage import run_generate
from components.model.sampling_settings import Sampling
from components.published_model.config import PublishedModel
from components.published_model.stage import run_published_model
from components.tasks.loading import load_samples, load_task
from tests.support import published_models, video_models
from tests.support.evaluation_world import INTERLEAVED, SHORT_QUESTIONS, interleave, raw_dataset
from tests.support.export_world import Sources

NEW_TOKENS = 10
needs_torchvision = pytest.mark.skipif(
    bool(torchvision_problem()), reason=f"needs torchvision: {torchvision_problem()}"
)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return RunContext(run_id="t", run_name="t", workspace=tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def raw(context: RunContext) -> Path:
    return raw_dataset(context, 7, side=48)


@pytest.fixture(scope="module")
def questions(context: RunContext) -> str:
    path = context.workspace / "short_questions.yaml"
    path.write_text(SHORT_QUESTIONS)
    return str(path)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").split("\n")
    return [{**json.loads(line), "generation": ""} for line in lines if line]


def asked_alone(folder: Path, rows: list[dict[str, Any]], raw: Path) -> list[str]:
    """Ask a model about one picture at a time, by the way that model cards show, and what comes without a template."""
    model, processor = published_models.reload(folder)
    answers = []
    with Pictures(raw) as pictures:
        for row in rows:
            picture = pictures.open(row["image"]) if row["image"] else blank_like((BLANK_SIDE, BLANK_SIDE))
            answers.append(_said(model, processor, _as_model_cards_show(processor, picture, row["prompt"])))
    return answers


def _said(model: Any, processor: Any, inputs: Any) -> str:
    with torch.no_grad():
        found = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    said: str = processor.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return said.strip()


def _as_model_cards_show(processor: Any, picture: Image.Image, prompt: str) -> Any:
    if processor.chat_template is None:
        return processor(images=picture, text=f"<image>{prompt}", return_tensors="pt")
    return _of_parts(processor, [{"type": "image", "image": picture}, {"type": "text", "text": prompt}])


def _of_parts(processor: Any, content: list[dict[str, Any]]) -> Any:
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


@pytest.mark.parametrize(
    "make",
    [published_models.llava, published_models.idefics3, published_models.paligemma]
    + [pytest.param(make, marks=needs_torchvision) for make in video_models.VIDEO_MODELS],
)
def test_answers_of_batches_equal_those_of_transformers_alone(
    context: RunContext, raw: Path, questions: str, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    folder = make(tmp_path / "model")
    model = run_published_model(context, PublishedModel(source=folder.as_uri()), make.__name__).folder
    config = GenerateConfig(task=questions, batch_size=5, max_new_tokens=NEW_TOKENS)
    output = run_generate(context, config, model, raw, 0)
    rows = rows_of(output.folder)
    assert len(rows) == 3 * 7
    assert [row["text"] for row in rows] == asked_alone(folder, rows, raw)
    facts = output.manifest.facts
    assert facts["answer_tokens"] > 0
    assert facts["prompt_tokens"] > facts["answers"] * 16
    assert any(sample.prompt in facts["example_prompt"] for sample in load_samples(raw, load_task(questions)))


@pytest.mark.parametrize("make", [published_models.llava, published_models.paligemma, published_models.idefics3])
def test_a_picture_is_encoded_once_whatever_is_asked_about_it(
    context: RunContext, raw: Path, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    """Also where a later task asks."""
    model, processor = published_models.reload(make(tmp_path / "model"))
    with Pictures(raw) as pictures:
        names = [sample.image for sample in load_samples(raw, load_task("captioning"))][:3]
        asked = [ModelInput((name,), f"Is it {word}?", "") for word in ("red", "green", "blue") for name in names]
        alone = [
            _said(model, processor, _as_model_cards_show(processor, pictures.open(one.pictures[0]), one.prompt))
            for one in asked
        ]
        encoded: list[int] = []
        tower = model.model.vision_model if make is published_models.idefics3 else model.model.vision_tower
        tower.register_forward_hook(lambda *_, **__: encoded.append(1), with_kwargs=True)
        answerer = TransformersModel(model, processor, Place())
        for _ in range(2):
            asking = Asking("instruct", NEW_TOKENS, 4, Sampling(), CallsConfig())
            batches = answerer.batches(asked, asking)
            said = {}
            for number, answers in answerer.answer(
                [[asked[index] for index in one] for one in batches], asking, pictures
            ):
                said |= {index: answer.text.strip() for index, answer in zip(batches[number], answers, strict=True)}
            assert [said[index] for index in range(len(asked))] == alone
        # Nine questions in batches of four: new pictures in the first three batches at most, none when they are asked again.
        assert 1 <= len(encoded) <= 3


class _Tower:
    """A model whose tower returns more than features."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.base_model = self

    def forward(self, mm_encoder_outputs: Any = None) -> None:
        """Take what was seen."""

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        """Return features, and states that a language model needs besides."""
        return WithMore(pooler_output=pixel_values)


class WithMore(BaseModelOutputWithPooling):
    """An output with more than features."""


@pytest.mark.parametrize("rows", [2, 3], ids=["more-than-features", "pictures-are-no-rows"])
def test_pixels_stay_where_a_picture_can_not_be_encoded_apart(rows: int) -> None:
    encoded = EncodedPictures(_Tower())
    inputs = {"input_ids": torch.ones(2, 4), "pixel_values": torch.ones(rows, 8)}
    assert encoded.in_place(inputs, ["a", "b"]) == inputs
    assert not encoded.applies


def test_pictures_stand_where_their_marks_are(context: RunContext, raw: Path, tmp_path: Path) -> None:
    """As the model reads a message whose parts are texts and pictures in this order."""
    shown = interleave(raw, tmp_path / "raw")
    task = tmp_path / "interleaved.yaml"
    task.write_text(INTERLEAVED)
    folder = published_models.idefics3(tmp_path / "model")
    model = run_published_model(context, PublishedModel(source=folder.as_uri()), "interleaved").folder
    config = GenerateConfig(task=str(task), batch_size=3, max_new_tokens=NEW_TOKENS, controls=("none",))
    found = rows_of(run_generate(context, config, model, tmp_path / "raw", 0).folder)
    texts: list[list[str | None]] = [
        ["which is ", None, " ? A ", None, "\nB red ", None, "\nC", None],
        ["is ", None, " red A yes\nB no"],
        [None, None, "are they A yes\nB no"],
    ]
    alone, processor = published_models.reload(folder)
    expected = []
    with Pictures(tmp_path / "raw") as pictures:
        for parts, names in zip(texts, shown, strict=True):
            images = iter([pictures.open(name) for name in names])
            content = [
                {"type": "image", "image": next(images)} if part is None else {"type": "text", "text": part}
                for part in parts
            ]
            expected.append(_said(alone, processor, _of_parts(processor, content)))
    assert [row["text"] for row in found] == expected


@pytest.mark.parametrize("wide", [False, True])
def test_an_export_answers_as_its_checkpoint_does(tmp_path: Path, questions: str, wide: bool) -> None:
    sources = Sources(tmp_path, **({"projector": {"ffn_hidden_size": 40}} if wide else {}))
    raw = raw_dataset(sources.context, 9, side=40)
    exported = run_export(sources.context, ExportConfig(verify=False, custom_code=wide), sources.model).folder
    drawn = Sampling(temperature=1.5, top_p=0.9, seed=3)
    interleave(raw, tmp_path / "interleaved")
    (tmp_path / "interleaved.yaml").write_text(INTERLEAVED)
    asked = [(raw, "captioning", Sampling()), (raw, questions, Sampling()), (raw, questions, drawn)]
    asked.append((tmp_path / "interleaved", str(tmp_path / "interleaved.yaml"), Sampling()))
    for data, task, sampling in asked:
        config = GenerateConfig(task=task, batch_size=4, max_new_tokens=12, sampling=sampling)
        outputs = [run_generate(sources.context, config, model, data, 0) for model in (sources.model, exported)]
        own, other = (rows_of(output.folder) for output in outputs)
        assert own == other
        assert len({row["text"] for row in own}) > 3
        for fact in ("answers", "answer_tokens", "prompt_tokens", "empties"):
            assert outputs[0].manifest.facts[fact] == outputs[1].manifest.facts[fact]


def test_a_model_that_transformers_can_not_load_is_refused(
    context: RunContext, raw: Path, questions: str, tmp_path: Path
) -> None:
    folder = published_models.llava(tmp_path / "model")
    (folder / "processor_config.json").unlink()
    model = run_published_model(context, PublishedModel(source=folder.as_uri()), "broken").folder
    with pytest.raises(InputError, match="LlavaForConditionalGeneration"):
        run_generate(context, GenerateConfig(task=questions), model, raw, 0)


@pytest.mark.skipif(not torchvision_problem(), reason="torchvision is here")
def test_a_processor_that_needs_torchvision_says_what_to_install(
    context: RunContext, raw: Path, questions: str, tmp_path: Path
) -> None:
    folder = published_models.llava(tmp_path / "model")
    settings = json.loads((folder / "processor_config.json").read_text())
    settings |= {
        "processor_class": "Qwen2_5_VLProcessor",
        "video_processor": {"video_processor_type": "Qwen2VLVideoProcessor"},
    }
    (folder / "processor_config.json").write_text(json.dumps(settings))
    model = run_published_model(context, PublishedModel(source=folder.as_uri()), "videos").folder
    with pytest.raises(InputError, match=r"can't load.*vlm-pipelines\[hub\].*torchvision of the build"):
        run_generate(context, GenerateConfig(task=questions), model, raw, 0)


@pytest.mark.parametrize(
    "make",
    [published_models.idefics3] + [pytest.param(make, marks=needs_torchvision) for make in video_models.VIDEO_MODELS],
)
def test_several_pictures_are_read_where_they_stand(
    context: RunContext, raw: Path, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    """Two pictures, one, three, in one batch; the model alone says the same."""
    folder = make(tmp_path / "model")
    names = [sample.image for sample in load_samples(raw, load_task("captioning"))]
    asked = [
        ModelInput((names[0], names[1]), "Is <image> as red\nas <image>?", ""),
        ModelInput((names[2],), "What is it?", ""),
        ModelInput((names[3], names[0], names[4]), "<image><image>\nWhat do they show that <image> does not?", ""),
    ]
    parts = [
        ["Is ", None, " as red\nas ", None, "?"],
        [None, "What is it?"],
        [None, None, "What do they show that ", None, " does not?"],
    ]
    model, processor = published_models.reload(folder)
    with Pictures(raw) as pictures:
        alone = []
        for shown, placed in zip(asked, parts, strict=True):
            opened = (pictures.open(name) for name in shown.pictures)
            content = [
                {"type": "image", "image": next(opened)} if part is None else {"type": "text", "text": part}
                for part in placed
            ]
            alone.append(_said(model, processor, _of_parts(processor, content)))
        answerer = TransformersModel(*published_models.reload(folder), Place())
        asking = Asking(
            prompt_format="instruct", max_new_tokens=NEW_TOKENS, batch_size=3, sampling=Sampling(), calls=CallsConfig()
        )
        ((_, answers),) = answerer.answer([asked], asking, pictures)
    assert [answer.text.strip() for answer in answers] == alone
    assert len(set(alone)) > 1


def test_a_copy_of_a_model_is_not_split_over_processes(context: RunContext, raw: Path, tmp_path: Path) -> None:
    folder = published_models.llava(tmp_path / "model")
    model = run_published_model(context, PublishedModel(source=folder.as_uri()), "split").folder
    config = GenerateConfig(task="captioning", tensor_parallel=2)
    with pytest.raises(ConfigurationError, match="tensor_parallel is 2"):
        run_generate(context, config, model, raw, 0)


def test_a_prompt_that_a_model_has_no_positions_for_is_refused(context: RunContext, raw: Path, tmp_path: Path) -> None:
    folder = published_models.llava(tmp_path / "model")
    model = run_published_model(context, PublishedModel(source=folder.as_uri()), "short").folder
    config = GenerateConfig(task="captioning", max_new_tokens=1024)
    with pytest.raises(StageError, match=r"1024 new ones.*\(1024, max_position_embeddings\)"):
        run_generate(context, config, model, raw, 0)


@pytest.mark.usefixtures("forked_launches")
def test_copies_of_a_model_share_a_partition(context: RunContext, raw: Path, questions: str, tmp_path: Path) -> None:
    folder = published_models.llava(tmp_path / "model")
    model = run_published_model(context, PublishedModel(source=folder.as_uri()), "shared").folder
    config = GenerateConfig(task=questions, batch_size=2, max_new_tokens=5)
    alone = run_generate(context, config, model, raw, 0)
    shared = run_generate(context, config.model_copy(update={"processes_per_node": 2}), model, raw, 0)
    assert rows_of(alone.folder) == rows_of(shared.folder)
