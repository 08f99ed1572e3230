"""A model folder of ours answers: the network on megatron-core, one copy for every tensor-parallel group."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL.Image import Image

from components.data.packing import EncodedSample
from components.data.pictures import Pictures
from components.data.prompt import encode_prompt, prompt_tokens
from components.data.tokenizer import ChatTokenizer
from components.generate.answerer import Answer, Answerer, Asking, Place, read_ahead
from components.generate.config import GenerateConfig
from components.generate.controls import blank_like
from components.generate.requests import BLANK, ModelInput, batches_by_length
from components.model.checkpoint.sharded import load_model
from components.model.config import CHECKPOINT_FOLDER, TOKENIZER_FOLDER, read_model_config
from components.model.decoding import generate
from components.model.distributed import destroy, initialize
from components.model.vlm import VisionLanguageModel, build_model


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


class Checkpoint(Answerer):
    """A loaded model folder.

    Args:
        model: The model, in evaluation mode.
        tokenizer: The model's tokenizer.
        place: Where the process stands.
    """

    def __init__(self, model: VisionLanguageModel, tokenizer: ChatTokenizer, place: Place) -> None:
        self.model, self.tokenizer, self.place = model, tokenizer, place

    def batches(self, inputs: Sequence[ModelInput], asking: Asking) -> list[list[int]]:
        """Put about equally long prompts together, without reading pictures."""
        lengths = {prompt: self._length(prompt, asking) for prompt in {shown.prompt for shown in inputs}}
        return batches_by_length([lengths[shown.prompt] for shown in inputs], asking.batch_size)

    def answer(
        self, batches: Sequence[Sequence[ModelInput]], asking: Asking, pictures: Pictures
    ) -> Iterator[tuple[int, list[Answer]]]:
        """Answer batches in order."""

        def prepare(batch: Sequence[ModelInput]) -> list[EncodedSample]:
            return [
                self._encode(shown.prompt, [self._picture(shown, pictures)], shown.draws, asking) for shown in batch
            ]

        def answers(prompts: list[EncodedSample]) -> list[Answer]:
            found = generate(
                self.model,
                prompts,
                end_tokens=self.tokenizer.ends,
                max_new_tokens=asking.max_new_tokens,
                sampling=asking.sampling,
            )
            return [
                Answer(self.tokenizer.decode(tokens), len(tokens), prompt.length)
                for prompt, tokens in zip(prompts, found, strict=True)
            ]

        return read_ahead(batches, prepare, answers)

    def _picture(self, shown: ModelInput, pictures: Pictures) -> Image:
        side = self.model.architecture.image.size
        return blank_like((side, side)) if shown.picture == BLANK else pictures.open(shown.picture)

    def _length(self, prompt: str, asking: Asking) -> int:
        image_tokens = self.model.architecture.image.tokens
        encoded = prompt_tokens(
            prompt, 1, tokenizer=self.tokenizer, image_tokens=image_tokens, prompt_format=asking.prompt_format
        )
        return len(encoded.ids)

    def _encode(self, prompt: str, pictures: Sequence[Image], key: str, asking: Asking) -> EncodedSample:
        return encode_prompt(
            prompt,
            pictures,
            tokenizer=self.tokenizer,
            settings=self.model.architecture.image,
            prompt_format=asking.prompt_format,
            key=key,
        )
