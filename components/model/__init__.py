"""The multimodal model on megatron-core: architecture, attention, CLIP tower, parallel setup, checkpoints, HF mapping."""
