"""Weight conversion: a pretrained part in Hugging Face layout becomes a verified megatron-core checkpoint."""
