"""CLIP's vision tower on megatron-core's transformer block."""

import torch
from megatron.core.models.common.vision_module.vision_module import VisionModule
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_block import TransformerBlock
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from components.model.config import VisionConfig
from components.model.layer_specs import Backend, block_submodules


class ClipVisionTower(VisionModule):
    """Pixels to patch features.

    megatron-core's own `CLIPViTModel` builds its norms for Transformer Engine and masks causally on its plain layers;
    this tower has the same parameter names and neither problem.

    Args:
        config: megatron's configuration of the tower's layers.
        architecture: The tower.
        backend: Which layers to build.
    """

    def __init__(self, config: TransformerConfig, architecture: VisionConfig, backend: Backend) -> None:
        super().__init__(config=config)
        hidden, patch = architecture.hidden_size, architecture.patch_size
        self.conv1 = nn.Conv2d(3, hidden, kernel_size=patch, stride=patch, bias=False)
        self.class_token = nn.Parameter(torch.empty(1, 1, hidden))
        self.position_embeddings = nn.Embedding(architecture.patches + 1, hidden)
        self.ln_pre = nn.LayerNorm(hidden, eps=architecture.norm_epsilon)
        self.decoder = TransformerBlock(
            config=config,
            spec=block_submodules(backend, architecture.built_layers, AttnMaskType.no_mask),
            post_layer_norm=False,
        )

    def initialize(self, std: float) -> None:
        """Draw the parameters outside the transformer layers from torch's current generator."""
        for parameter in (self.conv1.weight, self.class_token, self.position_embeddings.weight):
            nn.init.normal_(parameter, std=std)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Compute the features of the patches.

        Args:
            pixel_values: [N, 3, size, size], normalised, in the parameters' type.

        Returns:
            [N, patches, hidden]; the class token is dropped.
        """
        patches = self.conv1(pixel_values).flatten(2).permute(2, 0, 1)
        class_tokens = self.class_token.expand(1, patches.shape[1], -1)
        embedded = torch.cat([class_tokens, patches]) + self.position_embeddings.weight[:, None, :]
        hidden = self.decoder(hidden_states=self.ln_pre(embedded), attention_mask=None)
        features: Tensor = hidden[1:].transpose(0, 1)
        return features
