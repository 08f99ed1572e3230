"""The stage: two converted parts become a model folder."""

from pathlib import Path
from typing import Any

from components.combine.config import CombineConfig
from components.context import RunContext
from components.stage.runner import StageOutput, StageWork, run_stage

STAGE = "combine"
VERSION = 2


def run_combine(
    context: RunContext, config: CombineConfig, language: Path, vision: Path, *, stock: bool = False
) -> StageOutput:
    """Combine a language model and a vision tower.

    Args:
        context: The pipeline run.
        config: Projector, image settings, seed.
        language: Folder of the converted language model.
        vision: Folder of the converted vision tower.
        stock: Whether the model is to be exported as transformers' own Llava; decides nothing but whether another one is
            refused, before it is trained.

    Returns:
        A model folder: `checkpoint/`, `model.json`, `tokenizer/`.

    Raises:
        ConfigurationError: The image settings don't fit the vision tower, or the model is no stock Llava and has to be.
        InputError: A part is missing, damaged, or does not fit the other.
    """

    def body(work: StageWork) -> dict[str, Any]:
        return _combine(config, language, vision, work)

    inputs = {"language": language, "vision": vision}
    output = run_stage(context, stage=STAGE, version=VERSION, inputs=inputs, settings=config, body=body)
    if stock:  # of a finished folder too: whether it is to be exported so is another run's setting
        from components.model.config import read_model_config
        from components.model.stock import check_stock

        model = read_model_config(output.folder)
        check_stock(model.projector, model.language.hidden_size, model.image.pixel_shuffle)
    return output


def _combine(config: CombineConfig, language: Path, vision: Path, work: StageWork) -> dict[str, Any]:
    # Imported here: a run that reuses the finished folder needs none of it.
    import shutil

    from components.combine.join import combined_config, joined_model, read_parts, tokenizer_folder
    from components.model.checkpoint.streamed import save_streamed
    from components.model.config import CHECKPOINT_FOLDER, TOKENIZER_FOLDER, write_model_config
    from components.model.distributed import single_process
    from components.model.streaming import with_progress
    from components.model.vlm import count_parameters

    language_part, vision_part = read_parts(language, vision)
    tokenizer = tokenizer_folder(language)
    architecture = combined_config(config, language_part, vision_part, tokenizer)
    with single_process():
        model, read = joined_model(config, architecture, language, vision)
        save_streamed(model, work.folder / CHECKPOINT_FOLDER, with_progress(read, model, "combining", work.progress))
        counts = {
            "language": count_parameters(model.language_model)["total"],
            "vision": count_parameters(model.vision_model)["total"],
            "projector": count_parameters(model.vision_projection)["total"],
        }
    shutil.rmtree(work.folder / TOKENIZER_FOLDER, ignore_errors=True)
    shutil.copytree(tokenizer, work.folder / TOKENIZER_FOLDER)
    write_model_config(work.folder, architecture)
    return {
        "parameters": {**counts, "total": sum(counts.values())},
        "dtype": language_part.dtype,
        "image_tokens": architecture.image.tokens,
        "image_token_id": architecture.image_token_id,
    }
