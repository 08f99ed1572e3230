"""CLIP's vision tower on megatron-core's transformer block."""

import torch
from megatron.core.models.common.vision_module.vision_module import VisionModule
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_block import TransformerBlock
from torch import Tensor, nn

from components.model.config import VisionConfig
from components.model.layer_specs import block_submodules
from components.model.transformer_config import BuildSettings, vision_transformer_config


class ClipVisionTower(VisionModule):
    """Pixels to patch features.

    megatron-core's own `CLIPViTModel` builds its norms for Transformer Engine and masks causally on its plain layers;
    this tower has the same parameter names and neither problem.

    Args:
        architecture: The tower.
        settings: How it is built.
    """

    def __init__(self, architecture: VisionConfig, settings: BuildSettings) -> None:
        config = vision_transformer_config(architecture, settings)
        super().__init__(config=config)
        hidden, patch = architecture.hidden_size, architecture.patch_size
        self.architecture = architecture
        self.conv1 = nn.Conv2d(3, hidden, kernel_size=patch, stride=patch, bias=False)
        self.class_token = nn.Parameter(torch.empty(1, 1, hidden))
        self.position_embeddings = nn.Embedding(architecture.patches + 1, hidden)
        self.ln_pre = nn.LayerNorm(hidden, eps=architecture.norm_epsilon)
        self.decoder = TransformerBlock(
            config=config,
            spec=block_submodules(settings.backend, architecture.built_layers, AttnMaskType.no_mask),
            post_layer_norm=False,
        )
        if settings.initialize:
            for parameter in (self.conv1.weight, self.class_token, self.position_embeddings.weight):
                nn.init.normal_(parameter, std=settings.init_std)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Compute the features of the patches.

        Args:
            pixel_values: [N, 3, size, size], normalised; converted to the parameters' type.

        Returns:
            [N, patches, hidden]; the class token is dropped.
        """
        pixels = pixel_values.to(self.conv1.weight.dtype)
        patches = self.conv1(pixels).flatten(2).permute(2, 0, 1)
        class_tokens = self.class_token.expand(1, patches.shape[1], -1)
        # A look-up, not the weight itself: with one picture the gradients of the two would be views of the same memory, and
        # the next micro-batch would be added twice.
        places = torch.arange(patches.shape[0] + 1, device=patches.device)
        embedded = torch.cat([class_tokens, patches]) + self.position_embeddings(places)[:, None, :]
        hidden: Tensor = self.decoder(hidden_states=self.ln_pre(embedded), attention_mask=None)
        return hidden[1:].transpose(0, 1)
