"""One optimiser step: gradient accumulation, forward, loss, backward, clipping, update, EMA."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from regnet.config.schema import Config
from regnet.distributed.world import World
from regnet.errors import Diverged
from regnet.optim.clipping import clip_gradients
from regnet.optim.optimizers import set_learning_rate
from regnet.training.amp import Precision
from regnet.training.batches import Batch
from regnet.training.loss import Loss
from regnet.training.state import TrainingState


@dataclass
class TrainStep:
    """The network and everything that one optimiser step needs.

    Attributes:
        network: computes the training passes with the weights of `state.model`: see FlatNetwork; possibly compiled,
            captured and wrapped in DDP.
        predict: images (n, 3, H, W) -> logits float32 (n, classes) of the network that is evaluated (EMA if enabled).
    """

    config: Config
    world: World
    network: nn.Module
    loss: Loss
    precision: Precision
    state: TrainingState

    def __post_init__(self) -> None:
        channels_last = self.config.train.channels_last
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.predict: Callable[[Tensor], Tensor] = self._predict

    def run(self, batch: Batch, lr: float) -> Tensor:
        """One optimiser step; returns this rank's part of the mean loss over the global batch, on the device.

        Each rank's summed loss is divided by the global batch size, so gradients and losses are means over samples even
        if ranks or accumulation steps have different numbers of them.
        """
        set_learning_rate(self.state.optimizer, lr)
        # Every rank uses the same number of parts, since SyncBatchNorm communicates in each; a part has >= 2 samples.
        accum_parts = max(1, min(self.config.train.grad_accum_steps, batch.global_size // self.world.size // 2))
        parts = [part.tensor_split(accum_parts) for part in (batch.images, batch.labels, batch.targets)]
        total = torch.zeros((), device=self.world.device)
        for index, (images, labels, targets) in enumerate(zip(*parts, strict=True)):
            with self.no_sync() if index < accum_parts - 1 else nullcontext():
                logits, loss = self.forward_pass(images, targets)
                self.backward_pass(loss * (1 / batch.global_size))
            self.update_metrics(logits.detach(), labels, loss.detach())
            total += loss.detach() / batch.global_size
        self.update()
        return total

    def forward_pass(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, classes) and the sum of the n losses."""
        # A convolution runs channels-last if its input or its weight is in that format.
        images = images.contiguous(memory_format=self.memory_format)
        with self.precision.autocast():
            logits, teacher_logits = self.network(images), self.loss.teacher_logits(images)
        return logits, self.loss(logits, targets, teacher_logits)

    def backward_pass(self, loss: Tensor) -> None:
        """Accumulates gradients; DDP reduces them across ranks meanwhile, except inside `no_sync`.

        Raises:
            Diverged: on this rank only, with train.detect_anomaly, for a gradient that is NaN.
        """
        scaled = self.state.scaler.scale(loss)
        try:
            scaled.backward()
        except RuntimeError as error:
            if "returned nan values" not in str(error):  # the message of torch's anomaly detection
                raise
            raise Diverged(self._describe_anomaly(str(error), loss)) from error

    def _describe_anomaly(self, found: str, loss: Tensor) -> str:
        step, group = self.state.progress.global_step + 1, self.state.optimizer.param_groups[0]
        lr = group["lr"] / group["lr_scale"]
        text = f"a gradient is not finite at step {step} (learning rate {lr:.3g}, train.detect_anomaly): {found}"
        if self.precision.skips_overflow and loss.isfinite():
            scale = self.state.scaler.get_scale()
            text += f" Without train.detect_anomaly, the step is skipped if loss scale {scale:g} is too large for fp16"
        return text

    def update_metrics(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Adds a batch to the epoch's training metrics."""
        # A step that the gradient scaler is about to skip must not spoil the epoch's mean loss.
        counted = loss.isfinite() if self.precision.skips_overflow else None
        self.state.metrics.update(logits, labels, loss, counted)

    def update(self) -> None:
        """Clips the gradients, steps the optimiser, resets the gradients and updates the EMA weights."""
        state, clip_norm = self.state, self.config.optim.clip_norm
        if clip_norm:
            state.scaler.unscale_(state.optimizer)
            clip_gradients(state.model.parameters(), clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        self.network.zero_grad()
        if state.ema is not None:
            state.ema.update(state.model, state.progress.global_step)

    def no_sync(self) -> AbstractContextManager:
        """Within it, backward accumulates gradients locally instead of reducing them across ranks."""
        return self.network.no_sync() if isinstance(self.network, DistributedDataParallel) else nullcontext()

    def _predict(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=self.memory_format)
        with self.precision.autocast():
            return self.state.evaluated(images).float()
