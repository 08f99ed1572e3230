"""KFP component of supervised fine-tuning."""

from components.training.component import training_component

sft = training_component("sft", "Teach the pretrained model to answer questions about pictures (LLaVA's second stage).")
