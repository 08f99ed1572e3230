"""Published models in small: random weights in the layouts of the hub, with the processors of their own architectures."""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
)

from tests.support.families import redraw

_LLAVA_TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
IDEFICS_TEMPLATE = (
    "<|im_start|>{% for message in messages %}User:{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}


def llava(folder: Path, chat_template: str | None = _LLAVA_TEMPLATE) -> Path:
    """Write a LLaVA of CLIP and Llama, as llava-hf/llava-1.5-7b-hf is laid out."""
    words = tokenizer("<s>", "</s>", ["<image>"])
    image = words.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        text_config=LlamaConfig(**TEXT, vocab_size=len(words), max_position_embeddings=1024, **ends(words)),
        vision_config=CLIPVisionConfig(**VISION),
        image_token_index=image,
        image_seq_length=16,
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )
    return saved(folder, LlavaForConditionalGeneration(config), processor)


def tiled_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of models that cut pictures into tiles, and say rows and columns in the text."""
    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    special += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    return tokenizer("<|im_start|>", "<end_of_utterance>", special)


def tiled_settings(words: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return the settings of a small model with that tokenizer."""
    return {
        "text_config": {
            "model_type": "llama",
            **TEXT,
            "vocab_size": len(words),
            "max_position_embeddings": 2048,
            **ends(words),
        },
        "vision_config": VISION,
        "image_token_id": words.convert_tokens_to_ids("<image>"),
        "scale_factor": 2,
        "pad_token_id": words.pad_token_id,
    }


def idefics3(folder: Path) -> Path:
    """Write an Idefics3 (SmolVLM's layout): pixel shuffle, pictures cut into tiles, a text of their rows and columns."""
    words = tiled_tokenizer()
    config = Idefics3Config(**tiled_settings(words))
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(
            size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
        ),
        tokenizer=words,
        image_seq_len=4,
        chat_template=IDEFICS_TEMPLATE,
    )
    return saved(folder, Idefics3ForConditionalGeneration(config), processor)


def paligemma(folder: Path) -> Path:
    """Write a PaliGemma: no chat template, its processor puts the image tokens, and a prompt is read in both directions."""
    words = tokenizer("<bos>", "<eos>", ["<image>", *(f"<loc{number:04d}>" for number in range(4))])
    config = PaliGemmaConfig(
        text_config={
            "model_type": "gemma",
            **TEXT,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "vocab_size": len(words),
            "max_position_embeddings": 1024,
            **ends(words),
        },
        vision_config={**VISION, "model_type": "siglip_vision_model", "projection_dim": 48},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        projection_dim=48,
        **ends(words),
    )
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    return saved(folder, PaliGemmaForConditionalGeneration(config), PaliGemmaProcessor(images, words))


def reload(folder: Path) -> tuple[Any, Any]:
    """Load model and processor as anybody would who wants pictures resized by PIL."""
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return AutoModelForImageTextToText.from_pretrained(folder).eval(), processor


def ends(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return the special tokens as configurations name them."""
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def tokenizer(
    begin: str | None, end: str, special: list[str], named: dict[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """Train a small byte-level tokenizer; `named` are special tokens that it has an attribute for."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    special = [*special, *(named or {}).values()]
    control = ["<pad>", end, *([begin] if begin else []), *(name for name in special if name not in (begin, end))]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=control, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    trained.train_from_iterator(["a red circle left of a blue square"] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=trained,
        bos_token=begin,
        eos_token=end,
        pad_token="<pad>",
        additional_special_tokens=[AddedToken(name, special=True) for name in special],
        **(named or {}),
    )


def saved(folder: Path, model: Any, processor: Any) -> Path:
    """Redraw a model's weights and write it with its processor."""
    redraw(model, seed=3)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
