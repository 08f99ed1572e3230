"""What the tower of a model of transformers saw of pictures, seen once whatever the questions about them."""

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from components.generate.picture_memory import PictureMemory


class EncodedPictures:
    """Puts what was seen of pictures in the place of their pixels, for models that take it (`mm_encoder_outputs`).

    transformers' `generate` encodes the pixels of a batch by `get_image_features` and hands the result on; this does the same for
    those pictures that were not seen before. It applies where a picture is a row of everything that the processor made of
    pictures, and its features are all that the tower returns: LLaVA, LLaVA-NeXT, Idefics3, SmolVLM, PaliGemma, Gemma 3 and others,
    but not Qwen-VL, whose patches of all pictures are one list.

    Args:
        model: The model.
        memory: What it remembers.
    """

    def __init__(self, model: Any, memory: PictureMemory | None = None) -> None:
        takes = "mm_encoder_outputs" in inspect.signature(model.forward).parameters
        self._encode = getattr(model.base_model, "get_image_features", None) if takes else None
        self._arguments = () if self._encode is None else tuple(inspect.signature(self._encode).parameters)
        self._memory = PictureMemory() if memory is None else memory
        self._device = model.device
        self._stacked = False  # whether the tower returns one tensor for all pictures, or a list

    @property
    def applies(self) -> bool:
        """Whether the model takes what was seen; False as soon as a batch has shown that its pictures are no rows."""
        return self._encode is not None

    @torch.no_grad()
    def in_place(self, inputs: Mapping[str, Any], names: Sequence[Hashable]) -> dict[str, Any]:
        """Return a model's inputs with what was seen of the pictures.

        Args:
            inputs: What the processor made of prompts with one picture each.
            names: The pictures; equal names are one picture.

        Returns:
            The inputs without pixels and with `mm_encoder_outputs`; unchanged where it does not apply.
        """
        given = {name: inputs[name] for name in self._arguments if name in inputs}
        if self._encode is None or not given:
            return dict(inputs)
        found = (
            self._seen(self._encode, given, names)
            if all(_has_rows(value, len(names)) for value in given.values())
            else None
        )
        if found is None:
            self._encode = None
            return dict(inputs)
        return {name: value for name, value in inputs.items() if name not in given} | {
            "mm_encoder_outputs": {"image": found}
        }

    def _seen(self, encode: Callable[..., Any], given: Mapping[str, Tensor], names: Sequence[Hashable]) -> Any:
        """Return the output that the tower has for all pictures, in order; None where its rows are no pictures."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        seen = {name: found for name in dict.fromkeys(names) if (found := self._memory.get(name)) is not None}
        rows = {name: row for row, name in reversed(list(enumerate(names))) if name not in seen}
        if rows:
            places = torch.tensor(list(rows.values()), device=self._device)
            output = encode(**{name: value[places] for name, value in given.items()}, return_dict=True)
            features = output.pooler_output
            if type(output) is not BaseModelOutputWithPooling or len(features) != len(rows):
                return None
            for name, found in zip(rows, features, strict=True):
                seen[name] = found
                self._memory.put(name, found)
            self._stacked = isinstance(features, Tensor)
        every = [seen[name].to(self._device) for name in names]
        together: Any = torch.stack(every) if self._stacked else every
        return BaseModelOutputWithPooling(pooler_output=together)


def _has_rows(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == rows
