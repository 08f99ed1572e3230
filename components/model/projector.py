"""The projector: what the vision tower sees of a picture becomes what the language model reads."""

import math

from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from components.model.config import ModelConfig
from components.model.distributed import gathered
from components.model.layer_specs import linear_layers
from components.model.transformer_config import BuildSettings, projector_transformer_config


class Projector(MegatronModule):
    """Linear layers with an activation between them, after the pixel shuffle.

    Layers are split over the tensor-parallel ranks in pairs: the first by its outputs, the second by its inputs. A last layer
    without a second (odd depth) has its outputs gathered. megatron-core's own `MultimodalProjector` knows two layers, or one
    that Transformer Engine can't gather; the parameters of two layers have its names.

    Args:
        architecture: The whole model: the projector's inputs and outputs are the other parts'.
        settings: How it is built.
    """

    def __init__(self, architecture: ModelConfig, settings: BuildSettings) -> None:
        config = projector_transformer_config(architecture, settings)
        super().__init__(config=config)
        self.architecture = architecture
        column, row = linear_layers(settings.backend)
        self.encoder = MegatronModule(config)
        for number, (inputs, outputs) in enumerate(architecture.projector_layers, start=1):
            by_outputs = number % 2 == 1
            layer = (column if by_outputs else row)(
                inputs,
                outputs,
                config=config,
                init_method=config.init_method,
                bias=architecture.projector.bias,
                skip_bias_add=True,  # the bias comes back, and is added once: below
                is_expert=False,
                **({"gather_output": False} if by_outputs else {"input_is_parallel": True}),
            )
            self.encoder.add_module(f"linear_fc{number}", layer)

    def forward(self, features: Tensor) -> Tensor:
        """Project the features of pictures.

        Args:
            features: [N, patches, hidden of the tower].

        Returns:
            [N, image tokens, hidden of the language model].
        """
        hidden = pixel_shuffled(features, self.architecture.image.pixel_shuffle)
        for place, layer in enumerate(self.encoder.children()):
            hidden, bias = layer(hidden if place == 0 else self.config.activation_func(hidden))
            if bias is not None:
                hidden = hidden + bias
        return gathered(hidden) if self.architecture.projector.depth % 2 else hidden


def pixel_shuffled(features: Tensor, side: int) -> Tensor:
    """Put every square of patches side by side into one feature.

    The order is that of InternVL, Idefics3 and SmolVLM: squares row by row, and within a square its patches row by row.

    Args:
        features: [N, patches, hidden], the patches of a square picture row by row.
        side: Side of the squares in patches; divides the patches of a row.

    Returns:
        [N, patches / side^2, hidden x side^2].
    """
    if side == 1:
        return features
    squares = math.isqrt(features.shape[1]) // side
    by_square = features.unflatten(1, (squares, side, squares, side)).transpose(2, 3)
    return by_square.flatten(3).flatten(1, 2)
