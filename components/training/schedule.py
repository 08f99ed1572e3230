"""Learning-rate schedule: linear warm-up, then a half cosine."""

import math


def learning_rate(step: int, *, iterations: int, peak: float, minimum: float, warmup_fraction: float) -> float:
    """Return the learning rate of optimizer step `step` (1 is the first).

    Rises linearly to `peak` over the first `warmup_fraction` of the iterations, then falls along a half cosine and
    reaches `minimum` at the last iteration (SGDR without restarts, Loshchilov and Hutter 2017).
    """
    warmup_steps = math.ceil(warmup_fraction * iterations)
    if step <= warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(iterations - warmup_steps, 1)
    return minimum + (peak - minimum) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
