# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The progress of a run, its result, and the error for a loss that is not finite."""

from dataclasses import asdict, dataclass


class NonFiniteLossError(ValueError):
    """Raised if the loss or the gradient is not finite, before the step changes the weights."""


@dataclass
class TrainingResult:
    """The result of a run.

    Attributes:
        step: Number of completed optimizer steps, including steps before a resume.
        finished: Whether all steps are completed. If not, a signal stopped the run; `--resume` continues it.
        loss: Mean loss in the last line of the log; `None` if no loss was logged.
        scores: Scores of the last evaluation in this call; `None` without an evaluation.
        view: The inference mode and the size of the images of this evaluation, in words.
        seconds_per_step: Mean time per step in this call, without evaluations and checkpoints; `None` without a step.
        peak_memory: Peak memory in bytes: GPU memory if CUDA is available, else memory of the process.
    """

    step: int
    finished: bool
    loss: float | None
    scores: dict[str, float] | None
    seconds_per_step: float | None
    peak_memory: int
    view: str | None = None

    def summary(self) -> str:
        """Formats the result as a few lines of text."""
        lines = [f"step {self.step}"]
        if self.loss is not None:
            lines.append(f"loss {self.loss:.4f}")
        if self.scores:
            lines.append(f"evaluation ({self.view})")
        for name, value in (self.scores or {}).items():
            if not name.endswith(("_low", "_high")):
                lines.append(f"{name} {100 * value:.2f} %")
        if self.seconds_per_step is not None:
            lines.append(f"{self.seconds_per_step:.2f} s per step, peak memory {self.peak_memory / 2**20:.0f} MiB")
        return "\n".join(lines)


@dataclass
class Progress:
    """The current epoch, the step after which it began, and the losses not yet logged; saved in checkpoints."""

    epoch: int = 0
    epoch_start: int = 0
    loss_sum: float = 0.0
    num_losses: int = 0

    def add(self, loss: float) -> None:
        self.loss_sum += loss
        self.num_losses += 1

    def take_mean(self) -> float:
        mean = self.loss_sum / max(self.num_losses, 1)
        self.loss_sum, self.num_losses = 0.0, 0
        return mean

    def state_dict(self) -> dict[str, float]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, float]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
