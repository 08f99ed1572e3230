"""What transformers' own Llava can't be: such a model is exported with its modelling code, or not at all."""

from components.errors import ConfigurationError
from components.model.config import ModelConfig


def check_stock(config: ModelConfig) -> None:
    """Refuse a model that `LlavaForConditionalGeneration` can't express.

    Args:
        config: The model.

    Raises:
        ConfigurationError: Its projector is another one than stock Llava's.
    """
    projector, hidden, side = config.projector, config.language.hidden_size, config.image.pixel_shuffle
    differences = {}
    if projector.depth != 2:
        differences["combine.projector.depth=2"] = f"of depth {projector.depth}"
    if projector.depth > 1 and projector.ffn_hidden_size != hidden:
        differences[f"combine.projector.ffn_hidden_size={hidden}"] = f"{projector.ffn_hidden_size} wide"
    if side > 1:
        differences["combine.image.pixel_shuffle=1"] = f"fed with {side} x {side} patches at a time"
    if differences:
        raise ConfigurationError(
            f"transformers' Llava has a projector of two layers, as wide as the language model ({hidden}), that is fed with "
            f"single patches; this model's is {', '.join(differences.values())}. Set export.custom_code=true: the folder "
            "then carries its own modelling code and loads with trust_remote_code=True. Or set "
            f"{', '.join(differences)} and train again."
        )
