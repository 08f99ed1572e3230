"""The multimodal model on megatron-core: architecture, families, attention, vision tower, decoding, checkpoints."""
