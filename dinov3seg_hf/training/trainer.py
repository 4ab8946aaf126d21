# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The training loop, built on Accelerate, for one or several processes; runs can be stopped and resumed.

All random choices of a step depend only on the seed, the step and the position in the step (`batches.py`), and the loss
is normalized over the whole step. A resumed run therefore repeats the uninterrupted run, and the number of processes or
accumulated batches does not change the gradients.

`Trainer.__init__` contains all checks before the first step.
"""

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object, send_to_device
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from ..data.streamed import StreamedSegmentationDataset
from ..distributed import on_main_process
from ..evaluation.evaluator import evaluate
from ..file_names import RESULTS
from ..loading import license_files, load_starting_point
from ..model.files import disk_errors_as_value_errors
from ..model.fingerprints import weights_fingerprint
from ..model.inference_settings import InferenceSettings
from ..model.loss import is_labeled
from ..model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from ..model.vocabulary import Vocabulary
from ..model.workers import end_with_parent
from .accelerate_setup import SHARDED, Signals, checked_trackers, make_accelerator, peak_memory, refuse_unsupported
from .batches import EpochSampler, collate, normalize, pixels_per_class, relabel, sample_classes, seeds_of
from .checkpoints import Checkpoints, bytes_needed, write_trained_model
from .config import RUN_OPTIONS, TrainingConfig
from .data import Rows, TrainingData, open_training_data, set_shortest_edge
from .feature_noise import FeatureNoise
from .optimization import (
    MovingAverage,
    choose_trainable,
    enable_activation_checkpointing,
    merge_lora,
    parameter_groups,
    set_training_mode,
)
from .overlays import draw_samples, save_samples
from .progress import NonFiniteLossError, Progress, TrainingResult
from .provenance import describe_environment
from .run_folder import RESUME, RunFolder
from .stream import TrainingStream
from .text import prepare_text


class Trainer:
    """A trainer for the model and the data of a `TrainingConfig`.

    Example:

    ```python
    >>> from dinov3seg_hf.training import Trainer, TrainingConfig

    >>> result = Trainer(TrainingConfig.from_yaml("recipes/drawn_world.yaml", output="runs/drawn")).train()
    ```

    Args:
        config: The configuration of the run.
        resume: Whether to resume from the newest checkpoint in `config.output`, if a checkpoint exists.
        data: Data to use instead of the data sets in the configuration.

    Raises:
        ValueError: If a problem would stop the run: another run in the output folder, another architecture of the
            checkpoint, missing columns, labels outside the vocabulary, a full disk, changed data, a missing library.
    """

    def __init__(self, config: TrainingConfig, resume: bool = False, data: TrainingData | None = None):
        self.config = config
        self.folder = RunFolder(config.output)
        trackers = checked_trackers(config.trackers)
        self.folder.check(config.to_dict(), resume, RUN_OPTIONS)

        self.accelerator = make_accelerator(config, trackers)
        sharded = self.accelerator.distributed_type in SHARDED
        refuse_unsupported(config, self.accelerator)
        self.batch_size = self._batch_size_of_a_process()

        with self.accelerator.main_process_first():  # only one process downloads
            model, self.processor = load_starting_point(
                config.init, config.head, config.ablate, config.seed, config.config_overrides
            )
            self.data = open_training_data(config, self.accelerator.is_main_process) if data is None else data
            self.licenses = license_files(config.init)  # now, not after days: it may ask the Hub
        if config.shortest_edge is not None:
            set_shortest_edge(self.processor.image_processor, config.shortest_edge)
        weights = weights_fingerprint(model) if self.accelerator.is_main_process else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # adapters are initialized randomly
            choose_trainable(model, config.trainable_encoders, config.lora_rank)
        if config.gradient_checkpointing:
            enable_activation_checkpointing(model)
        self.noise = FeatureNoise(model.vision_model, config.feature_noise)
        self.order = self._order_of(self.data.train)

        self.num_trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        needed = bytes_needed(model, config.keep_checkpoints, averaged=bool(config.ema_decay), sharded=sharded)
        self._view: str | None = None
        try:
            on_main_process(self.accelerator, lambda: self._start_folder(needed, weights))
            self._prepare(model)
            steps = self.folder.checkpoint_steps() if resume else []
            self._step = self.start_step = broadcast_object_list([steps[-1] if steps else 0])[0]
            if self.start_step:
                self.checkpoints.load(self.start_step)
        except BaseException:
            self.folder.release()
            raise

    # --- before the first step ---------------------------------------------------------------------------------------

    def _batch_size_of_a_process(self) -> int:
        parts = self.accelerator.num_processes * self.config.gradient_accumulation
        if self.config.batch_size % parts:
            raise ValueError(
                f"batch_size is {self.config.batch_size} (images per step, over all processes); expected a multiple of "
                f"{parts}, for {self.accelerator.num_processes} processes with gradient_accumulation "
                f"{self.config.gradient_accumulation}. Change batch_size."
            )
        return self.config.batch_size // parts

    def _start_folder(self, needed: int, weights: str | None) -> None:
        """Checks the disk space, locks the folder and writes the provenance. Runs in one process only."""
        self.folder.check_space(needed)
        self.folder.claim()
        rows = self.data.train
        description = {
            "config": self.config.to_dict(),
            **describe_environment(),
            "num_processes": self.accelerator.num_processes,
            "mixed_precision": self.accelerator.mixed_precision,
            "num_trainable_parameters": self.num_trainable,
            "starting_weights": weights,
            "data": rows.fingerprint,
            "start_of_stream": rows.fingerprint_of_start() if isinstance(rows, StreamedSegmentationDataset) else None,
            "masks": rows.mask_meaning,
            "vocabulary": self.data.vocabulary.fingerprint,
            "num_classes": len(self.data.vocabulary),
            "evaluation_data": None if self.data.evaluation is None else self.data.evaluation.fingerprint,
        }
        if self.folder.checkpoint_steps():
            earlier = self.folder.read_run()
            for key, what in (
                ("starting_weights", "the weights of init"),
                ("data", "the training data"),
                ("start_of_stream", "the training data"),
                ("vocabulary", "the vocabulary"),
                ("masks", "the meaning of the values in the masks"),
            ):
                if earlier.get(key, description[key]) != description[key]:
                    raise ValueError(
                        f"Cannot resume the run in {self.config.output!r} because {what} changed since the run "
                        "started. Restore the original state, or start a new run in another folder."
                    )
            description["resumed"] = [*earlier.get("resumed", []), {"from_step": self.folder.checkpoint_steps()[-1]}]
        self.folder.write_run(description)

    def _prepare(self, model: Dinov3SegForSemanticSegmentation) -> None:
        config, accelerator = self.config, self.accelerator
        self.num_classes = len(self.data.vocabulary)
        near = bool(config.sampled_classes) and config.negatives == "near"
        self.text = prepare_text(model, self.processor, self.data.vocabulary, accelerator.device, near)

        encoder_rate = (config.encoder_learning_rate_multiplier, config.encoder_layer_decay)
        groups = parameter_groups(model, config.learning_rate, config.weight_decay, *encoder_rate)
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
        schedule = get_cosine_schedule_with_warmup(optimizer, config.warmup_steps, config.steps)
        if (deepspeed := accelerator.state.deepspeed_plugin) is not None:  # it reads these from its own config
            deepspeed.deepspeed_config.update(
                gradient_clipping=config.max_grad_norm,
                gradient_accumulation_steps=config.gradient_accumulation,
                train_micro_batch_size_per_gpu=self.batch_size,
            )
        loader = self._make_loader()
        # a stream is sharded already; DeepSpeed needs any other loader in the same call as the model
        shared_out = [] if isinstance(self.order, TrainingStream) else [loader]
        self.model, self.optimizer, self.schedule, *prepared = accelerator.prepare(
            model, optimizer, schedule, *shared_out
        )
        self.loader: Any = prepared[0] if prepared else loader  # Accelerate's loaders are not typed
        self.average = MovingAverage(self._unwrapped, config.ema_decay) if config.ema_decay else None
        self.progress = Progress()
        accelerator.register_for_checkpointing(self.progress, *([self.average] if self.average else []))
        self.checkpoints = Checkpoints(accelerator, self.folder, config.keep_checkpoints, lambda: self._unwrapped)

    def _order_of(self, rows: Rows) -> EpochSampler | TrainingStream:
        """Makes the object that assigns the rows of a data set to steps."""
        config, accelerator = self.config, self.accelerator
        if not isinstance(rows, StreamedSegmentationDataset):
            return EpochSampler(len(rows), config.batch_size, config.seed)
        return TrainingStream(
            rows,
            config.batch_size,
            accumulation=config.gradient_accumulation,
            shuffle_buffer=config.shuffle_buffer,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
        )

    def _make_loader(self) -> DataLoader:
        rows: torch.utils.data.Dataset = self.data.train
        sampler = None
        if isinstance(self.order, TrainingStream):
            rows = self.order
        else:
            sampler = self.order
        return DataLoader(
            rows,
            sampler=sampler,
            batch_size=self.batch_size,
            collate_fn=collate,
            drop_last=True,
            num_workers=self.config.num_workers,
            worker_init_fn=end_with_parent,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    @property
    def _unwrapped(self) -> Dinov3SegForSemanticSegmentation:
        return self.accelerator.unwrap_model(self.model)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def train(self) -> TrainingResult:
        """Trains until the last step, or until SIGINT or SIGTERM; both save a checkpoint before the end.

        Returns:
            The result of the run. After the last step, the folder `model` of the run contains the trained model.

        Raises:
            NonFiniteLossError: If the loss or a gradient is NaN or infinite; the batch is saved.
            ValueError: If a row cannot be read or the disk is full.
        """
        config, accelerator = self.config, self.accelerator
        scores, seconds, stopped = None, 0.0, False
        try:
            if accelerator.is_main_process:
                self.folder.rewind_log(self.start_step)
            self._start_trackers()
            set_training_mode(self._unwrapped)
            bar = tqdm(
                total=config.steps,
                initial=self.start_step,
                desc="Training",
                unit="step",
                file=sys.stderr,
                disable=not accelerator.is_main_process,
            )
            with bar, Signals() as signals:
                if self._lacks_evaluation():
                    scores = self._evaluate()
                batches = self._batches()
                while self._step < config.steps and not stopped:
                    start = time.perf_counter()
                    loss, norm, stopped = self._take_step(self._next_of(batches), signals.received)
                    seconds += time.perf_counter() - start
                    bar.update()
                    bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                    self._log_step(loss, norm, time.perf_counter() - start)
                    # first of all: an evaluation may take long and fail, and a cluster does not wait after a signal
                    if stopped or self._step % config.checkpoint_every == 0 or self._step == config.steps:
                        self.checkpoints.save(self._step)
                    if self._evaluation_is_due() and not stopped:
                        scores = self._evaluate()
            finished = self._step == config.steps
            if finished:
                scores = self._finish()
        finally:
            for tracker in accelerator.trackers:
                tracker.finish()
            self.folder.release()
        lines = [line for line in self.folder.read_log() if "loss" in line]
        steps_done = self._step - self.start_step
        return TrainingResult(
            step=self._step,
            finished=finished,
            loss=lines[-1]["loss"] if lines else None,
            scores=scores,
            seconds_per_step=seconds / steps_done if steps_done else None,
            peak_memory=peak_memory(),
            view=self._view,
        )

    def _batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yields the batches of this process without end, from the current position of the run."""
        progress = self.progress
        while True:
            first_step = self._step - progress.epoch_start
            yield from self._epoch(progress.epoch, first_step)
            if self._step == progress.epoch_start:
                raise ValueError(
                    f"The training split has fewer images than one step needs, {self.config.batch_size} (batch_size). "
                    "Lower batch_size."
                )
            progress.epoch, progress.epoch_start = progress.epoch + 1, self._step

    def _next_of(self, batches: Iterator[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        """Reads the batches of a step. If one process cannot read its part, all processes raise its error."""
        read, error = [], None
        try:
            read = [next(batches) for _ in range(self.config.gradient_accumulation)]
        except ValueError as caught:
            error = caught
            if "Original Traceback" in str(error):  # from a worker: its message follows the traceback
                kind = type(error)
                error = kind(str(error).rpartition(f"{kind.__name__}: ")[2].strip())
        if self.accelerator.num_processes > 1:
            failed = torch.tensor(float(error is not None), device=self.accelerator.device)
            if self.accelerator.reduce(failed) > 0:
                first = next(found for found in gather_object([error]) if found is not None)
                raise ValueError(str(first)) from error
        elif error is not None:
            raise error
        return read

    def _epoch(self, epoch: int, first_step: int) -> Iterator[dict[str, torch.Tensor]]:
        """Yields the batches of this process, on its device, until the end of an epoch."""
        accelerator = self.accelerator
        if isinstance(self.order, TrainingStream):
            self.order.set_position(epoch, first_step)
            for batch in self.loader:
                yield send_to_device(batch, accelerator.device, non_blocking=True)
            return
        self.order.set_epoch(epoch)
        self.loader.set_epoch(epoch)
        self.data.train.set_epoch(epoch)
        skipped = first_step * self.config.gradient_accumulation
        yield from accelerator.skip_first_batches(self.loader, skipped) if skipped else self.loader

    def _take_step(self, batches: list[dict[str, torch.Tensor]], stop: bool) -> tuple[float, float | None, bool]:
        """Runs one optimizer step.

        Returns:
            The loss over the whole step, the norm of the gradient, and whether any process received a stop signal.

        Raises:
            NonFiniteLossError: If the loss or the norm is not finite; the weights do not change.
        """
        accelerator, step = self.accelerator, self._step + 1
        # for dropout, if any; the earlier positions belong to images
        torch.manual_seed(seeds_of(self.config.seed, step, [self.config.batch_size + accelerator.process_index])[0])
        classes = self._choose_classes(batches, step)
        labels = [batch["labels"] for batch in batches]
        if classes is not None:
            labels = [relabel(maps, classes, self.num_classes) for maps in labels]
        num_valid = [is_labeled(maps).sum() for maps in labels]
        total_valid = accelerator.reduce(torch.stack(num_valid).sum()).clamp(min=1)

        # The model averages over the pixels of its own batch. With these weights, the sum is the average over the whole
        # step: `backward` divides by the accumulated batches, data parallelism by the processes.
        share = accelerator.num_processes * self.config.gradient_accumulation / total_valid
        loss_sum, norm = torch.zeros((), device=accelerator.device), None
        for index, batch in enumerate(batches):
            with accelerator.accumulate(self.model):
                loss = self._loss(batch["images"], labels[index], classes, step, index)
                loss_sum += loss.detach().float() * num_valid[index] / total_valid
                if accelerator.sync_gradients:  # the last batch of the step
                    mean_loss, stop = self._reduce_loss_and_stop(loss_sum, stop)
                    self._check_finite(mean_loss, None, batches, classes, step)
                accelerator.backward(loss * (num_valid[index] * share))
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm or math.inf)
                    norm = None if norm is None else float(norm)
                    self._check_finite(mean_loss, norm, batches, classes, step)
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.schedule.step()
        if self.average is not None:
            self.average.update()
        self._step = step
        return mean_loss, norm, stop

    def _loss(
        self, images: torch.Tensor, labels: torch.Tensor, classes: torch.Tensor | None, step: int, index: int
    ) -> torch.Tensor:
        processor = self.processor.image_processor
        first = (index * self.accelerator.num_processes + self.accelerator.process_index) * self.batch_size
        seeds = seeds_of(self.config.seed, step, range(first, first + len(images)))
        text = self.text.inputs
        if classes is not None:
            text = {key: value[classes] for key, value in text.items()}
        with self.noise.using(seeds) if self.config.feature_noise else contextlib.nullcontext():
            return self.model(
                pixel_values=normalize(images, processor.image_mean, processor.image_std), labels=labels, **text
            ).loss

    def _choose_classes(self, batches: list[dict[str, torch.Tensor]], step: int) -> torch.Tensor | None:
        config = self.config
        sizes = config.sampled_classes or ([self.num_classes] if config.left_out_classes else [])
        if not sizes:
            return None
        counts = self.accelerator.reduce(pixels_per_class([batch["labels"] for batch in batches], self.num_classes))
        chosen = sample_classes(
            counts, sizes, config.seed, step, self.text.similarities, left_out=config.left_out_classes
        )
        return chosen.to(counts.device)

    def _reduce_loss_and_stop(self, loss: torch.Tensor, stop: bool) -> tuple[float, bool]:
        """Returns the loss summed over all processes, and whether any process received a stop signal."""
        mean_loss, stops = self.accelerator.reduce(torch.stack([loss, loss.new_tensor(float(stop))])).tolist()
        return mean_loss, stops > 0

    def _check_finite(
        self,
        loss: float,
        norm: float | None,
        batches: list[dict[str, torch.Tensor]],
        classes: torch.Tensor | None,
        step: int,
    ) -> None:
        """Raises an error if the loss or the norm is not finite; both are equal in all processes, so all raise."""
        # the scaler of fp16 skips steps with overflowing gradients and lowers its scale
        bad_norm = norm is not None and self.accelerator.scaler is None and not math.isfinite(norm)
        if math.isfinite(loss) and not bad_norm:
            return
        tensors = {key: torch.cat([batch[key] for batch in batches]).cpu() for key in batches[0]}
        if classes is not None:
            tensors["classes"] = classes.cpu()
        path = self.folder.save_tensors(
            f"bad-batch-step-{step:08d}-process-{self.accelerator.process_index}.safetensors",
            tensors,
            {"step": step, "loss": loss, "gradient_norm": norm},
        )
        rows = tensors["index"].tolist()[:8]
        if isinstance(self.data.train, StreamedSegmentationDataset):
            rows = [self.data.train.name_of(row) for row in rows]
        self.accelerator.wait_for_everyone()  # until all processes have written
        steps = self.folder.checkpoint_steps()
        raise NonFiniteLossError(
            f"Step {step}: the loss is {loss}{'' if norm is None else f' and the gradient norm is {norm}'}; expected "
            f"finite numbers. The weights did not change. {str(path)!r} contains the batch (rows "
            f"{', '.join(map(str, rows))}). "
            f"{f'The last checkpoint is from step {steps[-1]}' if steps else 'No checkpoint exists yet'}. Inspect the "
            "batch, or start a new run in another folder with a lower learning_rate or mixed_precision bf16."
        )

    # --- logging -----------------------------------------------------------------------------------------------------

    def _start_trackers(self) -> None:
        if not self.accelerator.log_with:
            return
        values = {
            key: value if isinstance(value, (bool, int, float, str)) else str(value)
            for key, value in self.config.to_dict().items()
        }
        # steps after the checkpoint will be logged again
        purge = {"tensorboard": {"purge_step": self.start_step + 1}} if self.start_step else {}
        self.accelerator.init_trackers("dinov3seg", config=None if self.start_step else values, init_kwargs=purge)

    def _log_step(self, loss: float, norm: float | None, seconds: float) -> None:
        self.progress.add(loss)
        if self._step % self.config.log_every and self._step < self.config.steps:
            return
        values = {"loss": self.progress.take_mean(), "learning_rate": self.schedule.get_last_lr()[0]}
        if norm is not None:
            values["gradient_norm"] = norm
        values["images_per_second"] = self.config.batch_size / seconds
        if skipped := self.data.train.num_skipped:
            values["skipped_rows"] = skipped
        self._log(values)

    def _log(self, values: dict[str, float], texts: dict[str, str] | None = None) -> None:
        self.accelerator.log(values, step=self._step)
        if self.accelerator.is_main_process:
            with disk_errors_as_value_errors("The log", RESUME):
                self.folder.append_log({"step": self._step, **values, **(texts or {})})

    # --- evaluation --------------------------------------------------------------------------------------------------

    def _evaluation_is_due(self) -> bool:
        every = self.config.eval_every
        return bool(every) and self._step % every == 0 < self._step < self.config.steps

    def _lacks_evaluation(self) -> bool:
        """Whether the run was stopped between the checkpoint that it resumes from and the evaluation of this step."""
        is_due = self._evaluation_is_due() and self.data.evaluation is not None
        return is_due and not broadcast_object_list([self.folder.is_evaluated(self._step)])[0]

    def _evaluate(self, final: bool = False) -> dict[str, float] | None:
        """Evaluates the model or its moving average; returns the same scores in all processes."""
        if (data := self.data.evaluation) is None:
            return None
        vocabulary = self.data.evaluation_vocabulary or data.vocabulary
        accelerator, model = self.accelerator, self._unwrapped
        same = vocabulary.names == self.data.vocabulary.names
        with contextlib.nullcontext() if self.average is None or final else self.average.in_place_of_weights():
            result = evaluate(
                self.model,
                self.processor,
                data,
                vocabulary,
                settings=InferenceSettings(inference=self.config.inference),
                batch_size=self.config.eval_batch_size,
                accelerator=accelerator,
                progress=True,
                training_vocabulary=None if same else self.data.vocabulary,
                num_resamples=1000 if final else 0,
                benchmark=self.config.eval_dataset or self.config.dataset,
                model_name=self.config.output,
            )
            if accelerator.is_main_process and self.config.num_overlays:
                self._draw_overlays(model, data, vocabulary)
        self._view = result.view
        if final and accelerator.is_main_process:
            result.save(self.folder.path / RESULTS)
        set_training_mode(model)
        accelerator.wait_for_everyone()
        scores = {key: value for key, value in result.scores.items() if math.isfinite(value)}
        self._log({f"eval/{key}": value for key, value in scores.items()}, {"eval/view": result.view})
        return scores

    def _draw_overlays(self, model: torch.nn.Module, data: Rows, vocabulary: Vocabulary) -> None:
        folder = self.folder.path / "overlays" / f"step-{self._step:08d}"
        with disk_errors_as_value_errors("The overlays", RESUME):
            folder.mkdir(parents=True, exist_ok=True)
            pictures = draw_samples(
                model, self.processor, data, vocabulary, self.config.num_overlays, self.config.inference
            )
            save_samples(pictures, folder, self.accelerator.trackers, self._step)

    # --- checkpoints and the trained model ---------------------------------------------------------------------------

    def _finish(self) -> dict[str, float] | None:
        """Writes the model and evaluates. Also runs if a finished run is resumed."""
        model = self._unwrapped
        if self.average is not None:
            self.average.copy_to_model()
        merge_lora(model)
        sharded = self.accelerator.distributed_type in SHARDED
        state = self.accelerator.get_state_dict(self.model) if sharded else None
        on_main_process(
            self.accelerator,
            lambda: write_trained_model(self.folder, model, self.processor, self.data.vocabulary, state, self.licenses),
        )
        return self._evaluate(final=True)  # last, because it may take long and fail
