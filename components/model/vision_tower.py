"""The vision tower on megatron-core's transformer block."""

import torch
from megatron.core.models.common.vision_module.vision_module import VisionModule
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_block import TransformerBlock
from torch import Tensor, nn

from components.model.config import VisionConfig
from components.model.layer_specs import block_submodules
from components.model.transformer_config import BuildSettings, vision_transformer_config


class VisionTower(VisionModule):
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
        self.conv1 = nn.Conv2d(3, hidden, kernel_size=patch, stride=patch, bias=architecture.patch_bias)
        self.class_token = nn.Parameter(torch.empty(1, 1, hidden)) if architecture.class_token else None
        self.position_embeddings = nn.Embedding(architecture.places, hidden)
        self.ln_pre = nn.LayerNorm(hidden, eps=architecture.norm_epsilon) if architecture.pre_norm else nn.Identity()
        self.decoder = TransformerBlock(
            config=config,
            spec=block_submodules(settings.backend, architecture.built_layers, AttnMaskType.no_mask),
            post_layer_norm=False,
        )
        if settings.initialize:
            for parameter in (self.conv1.weight, self.class_token, self.position_embeddings.weight):
                if parameter is not None:
                    nn.init.normal_(parameter, std=settings.init_std)
            if self.conv1.bias is not None:
                nn.init.zeros_(self.conv1.bias)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Compute the features of the patches.

        Args:
            pixel_values: [N, 3, size, size], normalised; converted to the parameters' type.

        Returns:
            [N, patches, hidden]; a class token is dropped.
        """
        pixels = pixel_values.to(self.conv1.weight.dtype)
        embedded = self.conv1(pixels).flatten(2).permute(2, 0, 1)
        if self.class_token is not None:
            embedded = torch.cat([self.class_token.expand(1, embedded.shape[1], -1), embedded])
        # A look-up, not the weight itself: with one picture the gradients of the two would be views of the same memory, and
        # the next micro-batch would be added twice.
        places = torch.arange(embedded.shape[0], device=embedded.device)
        embedded = embedded + self.position_embeddings(places)[:, None, :]
        hidden: Tensor = self.decoder(hidden_states=self.ln_pre(embedded), attention_mask=None)
        return hidden[int(self.architecture.class_token) :].transpose(0, 1)
