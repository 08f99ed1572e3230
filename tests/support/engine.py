"""Imports the training engine without torch's compiler, as its processes do; for a server of forks."""

from components.model.megatron import import_megatron

import_megatron()

import torch._dynamo  # noqa: E402, F401  (an optimizer's first step brings it)

import components.training.trainer  # noqa: E402, F401
