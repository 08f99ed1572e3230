"""The multimodal model on megatron-core: architecture, attention, CLIP tower, checkpoints, HF mapping."""
