"""A model folder of ours answers: the network on megatron-core, one copy for every tensor-parallel group."""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from components.cores import available_cores
from components.data.image import normalise, preprocess
from components.data.packing import IGNORED_LABEL, EncodedSample
from components.data.pictures import Pictures
from components.data.prompt import prompt_tokens
from components.data.tokenizer import ChatTokenizer
from components.generate.answerer import Answer, Answerer, Asking, Place, read_ahead
from components.generate.config import GenerateConfig
from components.generate.controls import blank_like
from components.generate.picture_memory import PictureMemory
from components.generate.requests import BLANK, ModelInput, batches_by_picture
from components.model.checkpoint.sharded import load_model
from components.model.config import CHECKPOINT_FOLDER, TOKENIZER_FOLDER, read_model_config
from components.model.decoding import generate
from components.model.distributed import destroy, initialize
from components.model.seen_pictures import SeenPictures
from components.model.vlm import VisionLanguageModel, build_model

_MOST_READERS = 8
_Pixels = tuple[Tensor, tuple[int, int]]


@contextlib.contextmanager
def open_checkpoint(folder: Path, config: GenerateConfig) -> Iterator[Answerer]:
    """Load a model folder; all processes of a task call it together."""
    parallel = initialize(config.tensor_parallel)
    try:
        dtype = torch.bfloat16 if parallel.device.type == "cuda" else torch.float32
        model = build_model(read_model_config(folder), dtype=dtype, device=parallel.device, layers="local")
        load_model(model, folder / CHECKPOINT_FOLDER)
        place = Place(
            rank=parallel.rank,
            processes=parallel.world_size,
            copy=parallel.data_rank,
            copies=parallel.data_parallel,
            writes=parallel.tensor_rank == 0,
        )
        yield Checkpoint(model.eval(), ChatTokenizer.load(folder / TOKENIZER_FOLDER), place)
    finally:
        destroy()


@dataclass(frozen=True)
class _Prepared:
    """A batch whose prompts are encoded and whose unseen pictures are read.

    Attributes:
        prompts: The prompts, without their pictures.
        names: The distinct pictures.
        rows: For every picture of the prompts in order its place among them.
        read: Pixels, and the area that holds the picture, of those that were not remembered.
    """

    prompts: list[EncodedSample]
    names: list[str]
    rows: list[int]
    read: dict[str, _Pixels]


class Checkpoint(Answerer):
    """A loaded model folder.

    Args:
        model: The model, in evaluation mode.
        tokenizer: The model's tokenizer.
        place: Where the process stands.
        memory: What it remembers of pictures.
    """

    def __init__(
        self, model: VisionLanguageModel, tokenizer: ChatTokenizer, place: Place, memory: PictureMemory | None = None
    ) -> None:
        self.model, self.tokenizer, self.place = model, tokenizer, place
        self._memory = PictureMemory() if memory is None else memory
        self._settings = model.architecture.image
        self._device = model.language_model.embedding.word_embeddings.weight.device

    def batches(self, inputs: Sequence[ModelInput], asking: Asking) -> list[list[int]]:
        """Put prompts about the same pictures together, and about equally long ones, without reading pictures."""
        asked = [(shown.prompt, len(shown.pictures)) for shown in inputs]
        lengths = {one: len(self._tokens(*one, asking)) for one in set(asked)}
        return batches_by_picture(
            [lengths[one] for one in asked], [shown.pictures for shown in inputs], asking.batch_size
        )

    def answer(
        self, batches: Sequence[Sequence[ModelInput]], asking: Asking, pictures: Pictures
    ) -> Iterator[tuple[int, list[Answer]]]:
        """Answer batches in order; a picture that was seen before, also by another task, is neither read nor seen again."""
        with ThreadPoolExecutor(max_workers=min(available_cores(), _MOST_READERS)) as readers:

            def prepare(batch: Sequence[ModelInput]) -> _Prepared:
                names = list(dict.fromkeys(name for shown in batch for name in shown.pictures))
                unseen = [name for name in names if (pictures.folder, name) not in self._memory]
                read = readers.map(lambda name: self._pixels(name, pictures), unseen)
                return _Prepared(
                    prompts=[self._encode(shown, asking) for shown in batch],
                    names=names,
                    rows=[names.index(name) for shown in batch for name in shown.pictures],
                    read=dict(zip(unseen, read, strict=True)),
                )

            def answers(prepared: _Prepared) -> list[Answer]:
                found = generate(
                    self.model,
                    prepared.prompts,
                    end_tokens=self.tokenizer.ends,
                    max_new_tokens=asking.max_new_tokens,
                    sampling=asking.sampling,
                    seen=SeenPictures(self._see(prepared, pictures), prepared.rows),
                )
                return [
                    Answer(self.tokenizer.decode(tokens), len(tokens), prompt.length)
                    for prompt, tokens in zip(prepared.prompts, found, strict=True)
                ]

            yield from read_ahead(batches, prepare, answers)

    @torch.no_grad()
    def _see(self, prepared: _Prepared, pictures: Pictures) -> Tensor:
        """Return what the tower sees of a batch's pictures, [N, patches, hidden]: remembered, or seen now, all together."""
        seen: dict[str, Tensor] = {}
        for name in prepared.names:
            remembered = self._memory.get((pictures.folder, name))
            if remembered is not None:
                seen[name] = remembered.to(self._device)
        missing = [name for name in prepared.names if name not in seen]
        if missing:
            # What was remembered when the batch was prepared may have made room since.
            read = [prepared.read.get(name) or self._pixels(name, pictures) for name in missing]
            pixels = torch.stack([pixels for pixels, _ in read]).to(self._device)
            valid = torch.tensor([valid for _, valid in read], device=self._device)
            for name, features in zip(
                missing, self.model.vision_features(normalise(pixels, valid, self._settings)), strict=True
            ):
                seen[name] = features
                self._memory.put((pictures.folder, name), features)
        return torch.stack([seen[name] for name in prepared.names])

    def _pixels(self, name: str, pictures: Pictures) -> _Pixels:
        side = self._settings.size
        return preprocess(blank_like((side, side)) if name == BLANK else pictures.open(name), self._settings)

    def _tokens(self, prompt: str, pictures: int, asking: Asking) -> list[int]:
        return prompt_tokens(
            prompt,
            pictures,
            tokenizer=self.tokenizer,
            image_tokens=self._settings.tokens,
            prompt_format=asking.prompt_format,
        ).ids

    def _encode(self, shown: ModelInput, asking: Asking) -> EncodedSample:
        tokens = torch.tensor(self._tokens(shown.prompt, len(shown.pictures), asking))
        side = self._settings.size
        return EncodedSample(
            key=shown.draws,
            tokens=tokens,
            labels=torch.full_like(tokens, IGNORED_LABEL),
            pixels=torch.empty(0, 3, side, side, dtype=torch.uint8),
            valid=torch.empty(0, 2, dtype=torch.int64),
        )
