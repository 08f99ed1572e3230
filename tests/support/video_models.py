"""Published models in small whose processors also take videos, and so need torchvision: random weights, layouts of the hub."""

from pathlib import Path

from tests.support.published_models import (
    IDEFICS_TEMPLATE,
    TEXT,
    VISION,
    ends,
    saved,
    tiled_settings,
    tiled_tokenizer,
    tokenizer,
)

_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_QWEN = {**TEXT, "num_key_value_heads": 2, "max_position_embeddings": 2048}


def llava_onevision(folder: Path) -> Path:
    """Write a LLaVA-OneVision of SigLIP and Qwen 2: a picture is seen whole and in tiles of its own number."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessorPil,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    words = tokenizer(None, "<|im_end|>", ["<|im_start|>", "<image>", "<video>"])
    grid = [[32, 32], [32, 64], [64, 32], [64, 64]]
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **_QWEN, "vocab_size": len(words), **ends(words)},
        vision_config={"model_type": "siglip_vision_model", **VISION},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
        vision_feature_layer=-1,
    )
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(
            size={"height": 32, "width": 32}, image_grid_pinpoints=grid, patch_size=8
        ),
        tokenizer=words,
        video_processor=LlavaOnevisionVideoProcessor(size={"height": 32, "width": 32}),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=_CHATML.replace("IMAGE", "<image>\n"),
    )
    return saved(folder, LlavaOnevisionForConditionalGeneration(config), processor)


def qwen2_5_vl(folder: Path) -> Path:
    """Write a Qwen2.5-VL: as many tokens as a picture is large, positions of three axes, windows in the tower."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessorPil,
        Qwen2VLVideoProcessor,
    )

    names = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words = tokenizer(None, "<|im_end|>", names)
    _, first, last, image, video = words.convert_tokens_to_ids(names)
    patches = {"patch_size": 8, "temporal_patch_size": 2}
    config = Qwen2_5_VLConfig(
        text_config={
            **_QWEN,
            "vocab_size": len(words),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 2, 2]},
            **ends(words),
        },
        vision_config={
            **patches,
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 4,
            "intermediate_size": 64,
            "out_hidden_size": 48,
            "spatial_merge_size": 2,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=first,
        vision_end_token_id=last,
    )
    sizes = {"size": {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}, "merge_size": 2, **patches}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(**sizes),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(**sizes),
        chat_template=_CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return saved(folder, Qwen2_5_VLForConditionalGeneration(config), processor)


def smolvlm(folder: Path) -> Path:
    """Write a SmolVLM: pixel shuffle, and pictures cut into tiles."""
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessorPil,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    words = tiled_tokenizer()
    config = SmolVLMConfig(**tiled_settings(words))
    sizes = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessorPil(**sizes, do_image_splitting=True),
        tokenizer=words,
        video_processor=SmolVLMVideoProcessor(**sizes),
        image_seq_len=4,
        chat_template=IDEFICS_TEMPLATE,
    )
    return saved(folder, SmolVLMForConditionalGeneration(config), processor)


def internvl(folder: Path) -> Path:
    """Write an InternVL: pixel shuffle, pictures cut into the tiles of their shape."""
    from transformers import (
        GotOcr2ImageProcessorPil,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = tokenizer(None, "<|im_end|>", ["<|im_start|>"], named)
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **_QWEN, "vocab_size": len(words), **ends(words)},
        vision_config={**VISION, "image_size": [32, 32], "patch_size": [8, 8]},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    size = {"height": 32, "width": 32}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessorPil(size=size, crop_to_patches=True, max_patches=4),
        tokenizer=words,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=_CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )
    return saved(folder, InternVLForConditionalGeneration(config), processor)


VIDEO_MODELS = (llava_onevision, qwen2_5_vl, smolvlm, internvl)
