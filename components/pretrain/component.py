"""KFP component of pretraining."""

from components.training.component import training_component

pretrain = training_component("pretrain", "Teach the combined model to describe pictures (LLaVA's first stage).")
