"""The training engine: one loop for pretraining and supervised fine-tuning."""
