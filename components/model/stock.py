"""What transformers' own Llava can't be: such a model is exported with its modelling code, or not at all."""

from typing import Protocol

from components.errors import ConfigurationError


class Projector(Protocol):
    """What is looked at, of a projector's settings or of a model's."""

    @property
    def depth(self) -> int:
        """Number of layers."""

    @property
    def ffn_hidden_size(self) -> int | None:
        """Width between them; None for the language model's."""


def check_stock(projector: Projector, hidden_size: int | None, pixel_shuffle: int) -> None:
    """Refuse a model that `LlavaForConditionalGeneration` can't express.

    Args:
        projector: Its projector.
        hidden_size: Width of its language model; None where the weights will say.
        pixel_shuffle: Side of the square of patches that is one image token.

    Raises:
        ConfigurationError: Its projector is another one than stock Llava's.
    """
    width = projector.ffn_hidden_size
    differences = {}
    if projector.depth != 2:
        differences["combine.projector.depth=2"] = f"of depth {projector.depth}"
    if projector.depth > 1 and width and hidden_size and width != hidden_size:
        differences[f"combine.projector.ffn_hidden_size={hidden_size}"] = f"{width} wide"
    if pixel_shuffle > 1:
        differences["combine.image.pixel_shuffle=1"] = f"fed with {pixel_shuffle} x {pixel_shuffle} patches at a time"
    if differences:
        as_wide = f" ({hidden_size})" if hidden_size else ""
        raise ConfigurationError(
            f"transformers' Llava has a projector of two layers, as wide as the language model{as_wide}, that is fed with "
            f"single patches; this model's is {', '.join(differences.values())}. Set export.custom_code=true: the folder "
            "then carries its own modelling code and loads with trust_remote_code=True. Or train with "
            f"{', '.join(differences)}."
        )
