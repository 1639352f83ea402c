"""The training loop: fit -> train_epoch -> step, evaluate."""

import math
import time
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from regnet.config.schema import Config
from regnet.distributed.gradients import wrap_ddp
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.world import SharedFlags, World
from regnet.errors import Diverged
from regnet.metrics.confident_errors import ConfidentErrorAccumulator
from regnet.metrics.evaluation import Evaluation, EvaluationAccumulator
from regnet.metrics.training import TrainingResult, TrainingAccumulator
from regnet.models.regnet import Model, freeze_backbone, initialize_weights, set_drop_path_rates, set_head_train_mode
from regnet.models.sync_batchnorm import convert
from regnet.optim.optimizers import build_optimizer, set_learning_rate
from regnet.optim.schedules import learning_rate
from regnet.tracking.base import EpochReport, StepReport
from regnet.training.amp import Precision
from regnet.training.batches import Batch, EvaluationBatches, TrainingBatches, take
from regnet.training.cuda_graphs import CapturedNetwork, recorder, records
from regnet.training.early_stopping import EarlyStopping
from regnet.training.ema import ModelEma
from regnet.training.loss import Loss, open_teacher
from regnet.training.run_manager import Record
from regnet.training.state import Progress, TrainingState
from regnet.training.torch_setup import seed_of_rank


class StepLoss(NamedTuple):
    """A step whose loss is still on the device: this rank's part of the global batch's mean."""

    step: int
    lr: float
    loss: Tensor


class Trainer:
    """Trains one network on all ranks together.

    Args:
        model: on the CPU; moved to the device.
        notice: what asks the run to leave.
        record: where reports and checkpoints go.
    """

    def __init__(
        self,
        config: Config,
        world: World,
        model: Model,
        train: TrainingBatches,
        val: EvaluationBatches,
        record: Record,
        notice: PreemptionNotice,
    ) -> None:
        self.config, self.world = config, world
        self.train_batches, self.val_batches = train, val
        self.record, self.notice = record, notice
        self.classes = len(record.samples.classes)
        self.steps = min(train.steps, config.train.max_steps_per_epoch or train.steps)
        self.precision = Precision(config.train.precision, world.device)
        self.agreement = SharedFlags(world, flags=2)
        self.mistakes = ConfidentErrorAccumulator()
        set_drop_path_rates(model, config.train.drop_path)
        initialize_weights(model, config.train.init_std, config.train.zero_init_residual)
        if config.train.sync_batchnorm and world.size > 1:
            convert(model)
        if config.train.freeze_backbone:
            freeze_backbone(model)
        self.memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
        model = model.to(world.device, memory_format=self.memory_format)  # type: ignore[call-overload]  # not in its stub
        teacher = world.broadcast_object(world.on_main(lambda: open_teacher(config, tuple(record.samples.classes))))
        if teacher is not None:
            teacher = teacher.to(world.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        record_kernels = recorder(config.train, world)
        answers = None if teacher is None else record_kernels(teacher)
        self.loss = Loss(config.train.label_smoothing, answers, config.distill)
        forward: nn.Module = torch.compile(model) if config.train.compile else model  # type: ignore[assignment]
        if records(config.train, world):
            forward = self._recorded(forward, model)
        self.forward = wrap_ddp(forward, world, config.train.deterministic)
        torch.manual_seed(seed_of_rank(config.seed, world.rank))  # other samples of other ranks skip blocks
        self.state = TrainingState(
            model=model,
            optimizer=build_optimizer(model, config.optim, self.precision.dtype, record_kernels),
            scaler=self.precision.scaler,
            ema=ModelEma(model, config.optim.ema_decay) if config.optim.ema_decay else None,
            counters=TrainingAccumulator(self.classes, world.device),
            stopping=EarlyStopping(
                config.early_stopping.patience, "min" if config.early_stopping.monitor == "train_loss" else "max"
            ),
            progress=Progress(),
        )
        self.logits = record_kernels(self._logits)

    def _recorded(self, network: nn.Module, model: Model) -> nn.Module:
        """The network with its passes recorded, for whole batches of the final resolution."""
        data, train = self.config.data, self.config.train
        network.train()
        if train.freeze_backbone:
            set_head_train_mode(model)
        images = torch.zeros((train.batch_size, 3, data.resolution, data.resolution), device=self.world.device)
        return CapturedNetwork(network, images.contiguous(memory_format=self.memory_format), self.precision)

    def fit(self) -> Evaluation | None:
        """Trains until the last epoch or early stopping; the last evaluation, or None if asked to leave before."""
        result = self._fit()
        self.agreement.wait()
        self.record.settle()
        return None if result is None else replace(result, confident_errors=self.mistakes.result(self.world))

    def _fit(self) -> Evaluation | None:
        if any(self.world.gather(self.notice.reason is not None)):
            return None
        self.notice.set_time_limit(self.config.train.max_minutes)
        result = None
        progress = self.state.progress
        while progress.epoch < self.config.train.epochs and not self.state.stopping.should_stop:
            began = time.perf_counter() - progress.seconds
            if not self.train_epoch(began):
                return None
            train = self.state.counters.summed(self.world).result()
            trained = time.perf_counter() - began
            progress.seconds = trained
            self.save()  # before the evaluation, which may be left or killed
            result = self.evaluate()
            if result is None:
                return None
            seconds = time.perf_counter() - began
            # Rank zero's numbers, so that whatever follows from them is decided once.
            self.end_epoch(*self.world.broadcast_object((train, result)), trained, seconds)
        return result if result is not None else self.evaluate()

    def why_done(self) -> str:
        """Why `fit` ended by itself."""
        stopping = self.state.stopping
        if stopping.should_stop:
            return f"stopped early: {stopping.stale} epochs without a better {self.config.early_stopping.monitor}"
        return f"{self.state.progress.epoch} epochs done"

    def train_epoch(self, began: float) -> bool:
        """The rest of the epoch under way; False if the run was asked to leave, and has saved itself."""
        config, progress = self.config, self.state.progress
        self.forward.train()
        if config.train.freeze_backbone:
            set_head_train_mode(self.state.model)
        self.record.begin_epoch(progress.epoch + 1, self.steps, progress.step)
        pending: list[StepLoss] = []
        saved_at = time.monotonic()
        batches = self.train_batches.epoch(progress.epoch, progress.step)
        for batch in take(batches, self.steps - progress.step):
            rate = self.rate_of(progress.global_step)
            loss = self.step(batch, rate)
            progress.step += 1
            progress.global_step += 1
            pending.append(StepLoss(progress.global_step, rate, loss))
            if len(pending) == config.tracking.log_every or progress.step == self.steps:
                self.report_steps(pending)
            minutes = (time.monotonic() - saved_at) / 60
            overdue = self.world.is_main and 0 < config.checkpoint.every_minutes <= minutes
            if overdue:
                saved_at = time.monotonic()  # asked for once, though it is heard a step later
            leave, save = self.agreement.exchange(self.notice.reason is not None, overdue)
            every = config.checkpoint.every_steps
            due = save or (every and progress.global_step % every == 0)
            if leave or (due and progress.step < self.steps):  # the end of the epoch saves anyway
                self.report_steps(pending)
                progress.seconds = time.perf_counter() - began
                self.save()
            if leave:
                return False
        return True

    def rate_of(self, step: int) -> float:
        """The learning rate of a step of the run, from 0; with optim.layer_decay that of the head."""
        config = self.config
        return learning_rate(step, self.steps, config.train.epochs, config.optim.lr, config.schedule)

    def step(self, batch: Batch, rate: float) -> Tensor:
        """One optimiser step; this rank's part of the global mean loss, on the device.

        Each rank's summed loss is divided by the global batch, so that gradients and losses are means over
        samples even where ranks or parts have different numbers of them.
        """
        set_learning_rate(self.state.optimizer, rate)
        # As many parts on every rank, since parts may talk across ranks, and no part of a single sample.
        count = max(1, min(self.config.train.grad_accum_steps, batch.global_size // self.world.size // 2))
        parts = [part.tensor_split(count) for part in (batch.images, batch.labels, batch.targets)]
        total = torch.zeros((), device=self.world.device)
        for index, (images, labels, targets) in enumerate(zip(*parts, strict=True)):
            with self.gradients_stay_here() if index < count - 1 else nullcontext():
                logits, loss = self.forward_pass(images, targets)
                # DDP averages gradients over ranks; the factor makes that a sum.
                self.backward_pass(loss * (self.world.size / batch.global_size))
            self.count(logits.detach(), labels, loss.detach())
            total += loss.detach() / batch.global_size
        self.update()
        return total

    def forward_pass(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, classes) and the sum of the n losses."""
        # A convolution has channels last if either its images or its weights have.
        images = images.contiguous(memory_format=self.memory_format)
        with self.precision.autocast():
            logits, answers = self.forward(images), self.loss.answers(images)
        return logits, self.loss(logits, targets, answers)

    def backward_pass(self, loss: Tensor) -> None:
        """Adds the gradients of a loss, and where they don't stay here exchanges them meanwhile."""
        self.state.scaler.scale(loss).backward()

    def count(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        # A part that the scaler is about to skip must not spoil the epoch's mean.
        counted = loss.isfinite() if self.precision.skips_overflow else None
        self.state.counters.update(logits, labels, loss, counted)

    def update(self) -> None:
        """Moves the weights by their gradients, and their moving average after them."""
        state, clip_norm = self.state, self.config.optim.clip_norm
        if clip_norm:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.model.parameters(), clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        if state.ema is not None:
            state.ema.update(state.model)

    def report_steps(self, pending: list[StepLoss]) -> None:
        """Reports the global mean loss of each pending step: one exchange, one wait for the device for all.

        Raises:
            Diverged: on all ranks at once, for a loss that is not finite.
        """
        if not pending:
            return
        # In float64 the parts add to the same sum in any order, in whatever company a step is reported.
        losses = self.world.sum_(torch.stack([step.loss for step in pending]).double()).tolist()
        epoch = self.state.progress.epoch + 1
        reports = [StepReport(epoch, step.step, step.lr, loss) for step, loss in zip(pending, losses, strict=True)]
        pending.clear()
        self.record.steps(reports)
        for report in reports:
            if not math.isfinite(report.loss) and not self.precision.skips_overflow:
                self.diverged(f"the loss is {report.loss}", report.step, report.lr)
        if self.precision.overflows():
            self.diverged("gradients overflow at every loss scale", reports[-1].step, reports[-1].lr)

    def diverged(self, what: str, step: int, rate: float) -> NoReturn:
        last = self.record.last_checkpoint()
        raise Diverged(f"{what} at step {step} (learning rate {rate:.3g}); {last}")

    def save(self, is_best: bool = False) -> None:
        """Keeps the state, unless it is one from which no run should continue.

        Raises:
            Diverged: on all ranks at once, for a weight that is not finite.
        """
        bad = next(filter(None, self.world.gather(self.state.not_finite())), None)
        if bad is not None:
            steps = self.state.progress.global_step
            self.diverged(f"{bad} is not finite", steps, self.rate_of(steps - 1))
        self.record.save(self.state, is_best)

    @torch.inference_mode()
    def evaluate(self) -> Evaluation | None:
        """Counts every test sample once over all ranks; None if asked to leave before the end."""
        self.state.sync_buffers(self.world)
        self.state.evaluated.eval()
        tally, self.mistakes = EvaluationAccumulator(self.classes, self.world.device), ConfidentErrorAccumulator()
        with closing(iter(self.val_batches)) as batches:
            for _ in range(self.val_batches.steps):
                batch = next(batches, None)  # shares differ by a sample, so one rank's may end earlier
                if batch is not None:
                    logits = self.logits(batch.images)
                    tally.update(logits, batch.labels)
                    self.mistakes.update(batch.images, logits, batch.labels)
                leave, _ = self.agreement.exchange(self.notice.reason is not None, False)
                if leave:
                    return None
        return tally.result(self.world)

    def _logits(self, images: Tensor) -> Tensor:
        """Of the network that is evaluated: float32 (n, classes)."""
        images = images.contiguous(memory_format=self.memory_format)
        with self.precision.autocast():
            return self.state.evaluated(images).float()

    def end_epoch(self, train: TrainingResult, val: Evaluation, trained: float, seconds: float) -> None:
        """Counts the epoch as done, reports it and saves."""
        state, progress = self.state, self.state.progress
        watched = train.loss if self.config.early_stopping.monitor == "train_loss" else val.top1
        state.stopping.update(watched)
        is_best = val.top1 > progress.best_accuracy
        if is_best:
            progress.best_accuracy, progress.best_step = val.top1, progress.global_step
        progress.epoch += 1
        lr = self.rate_of(progress.global_step - self.steps)
        report = EpochReport(progress.epoch, progress.global_step, lr, train, val, seconds, train.samples / trained)
        progress.step, progress.seconds = 0, 0.0
        state.counters = TrainingAccumulator(self.classes, self.world.device)
        self.record.epoch(report)
        self.save(is_best)

    def gradients_stay_here(self) -> AbstractContextManager:
        """Inside it, backward adds to this rank's gradients and leaves the exchange to a later part."""
        return self.forward.no_sync() if isinstance(self.forward, DistributedDataParallel) else nullcontext()
