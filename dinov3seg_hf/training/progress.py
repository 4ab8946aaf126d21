# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""How far a run is, how it ended, and why it stopped."""

from dataclasses import asdict, dataclass


class NonFiniteLossError(ValueError):
    """Training stopped before a step that would have ruined the weights."""


@dataclass
class TrainingResult:
    """How a run ended.

    Attributes:
        step: Optimizer steps done in all.
        finished: Whether these are all steps; otherwise a signal stopped the run and `--resume` goes on.
        loss: Mean of the last logged steps; `None` if none was logged.
        scores: Of the last evaluation; `None` without one.
        seconds_per_step: Mean over the steps of this call, without evaluations and checkpoints.
        peak_memory: Bytes: of the accelerator if there is one, else of the process.
    """

    step: int
    finished: bool
    loss: float | None
    scores: dict[str, float] | None
    seconds_per_step: float | None
    peak_memory: int

    def summary(self) -> str:
        """A few lines for people."""
        lines = [f"step {self.step}"]
        if self.loss is not None:
            lines.append(f"loss {self.loss:.4f}")
        for name, value in (self.scores or {}).items():
            if not name.endswith(("_low", "_high")):
                lines.append(f"{name} {100 * value:.2f} %")
        if self.seconds_per_step is not None:
            lines.append(f"{self.seconds_per_step:.2f} s a step, {self.peak_memory / 2**20:.0f} MiB at the most")
        return "\n".join(lines)


@dataclass
class Progress:
    """Which epoch it is, after which step it began, and what the log has not written yet; part of a checkpoint."""

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
