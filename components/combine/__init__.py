"""Combine: language model, vision tower and a freshly seeded projector become one multimodal model."""
