"""CLIP's image processor with the sides of a picture rounded to the nearest pixel, as the model saw them in training."""

from typing import Any

import numpy as np
from transformers import CLIPImageProcessorPil
from transformers.image_utils import SizeDict


class WideLlavaImageProcessor(CLIPImageProcessorPil):
    """Resizes with PIL; with a largest height and width, the shorter side is rounded where the stock class cuts it off."""

    def resize(self, image: np.ndarray, size: SizeDict, *args: Any, **kwargs: Any) -> np.ndarray:
        """Resize a picture.

        Args:
            image: [channels, height, width].
            size: As in the stock class.
            *args: As in the stock class.
            **kwargs: As in the stock class.
        """
        if size.max_height and size.max_width:
            height, width = image.shape[-2:]
            scale = min(size.max_height / height, size.max_width / width)
            size = SizeDict(height=max(1, round(height * scale)), width=max(1, round(width * scale)))
        return super().resize(image, size, *args, **kwargs)
