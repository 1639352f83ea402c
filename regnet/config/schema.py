"""Every option of a run: its name, type, unit and bound. Nothing else knows a default.

regnet.options reads them from files and flags, and regnet.checks judges them together.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import yaml

from regnet.config.types import (
    Few,
    Fraction,
    Layers,
    Level,
    NonNegativeInt,
    NonNegativeReal,
    Part,
    Pixels,
    PositiveInt,
    PositiveReal,
    Seed,
    Share,
    Side,
    Strength,
)
from regnet.models.design_space import Design, Form, Rounding, generate_design


@dataclass(frozen=True)
class ModelConfig:
    """The network: RegNet design parameters (Radosavovic et al. 2020, section 3.3).

    Args:
        form: reference (3x3 as wide as the block's input, stem stride 1) or paper (output, stem stride 2).
        depth: number of blocks.
        initial_width: w0, channels; a multiple of 8.
        slope: wa, channels a block.
        quantization: wm, ratio of the widths of successive stages; above 1.
        bottleneck_ratio: width of the 3x3 over the block's width.
        group_width: channels of one group of the 3x3.
        stem_width: channels of the stem.
        se_ratio: RegNetY's squeeze-and-excitation, its inner channels over those of the block's input; 0 for none.
        rounding: of widths to multiples of group_width: nearest, as in the published code and timm, or torchvision,
            some of whose networks are wider for it.
        weights: file with the weights to begin with, of torchvision or timm (.pth, .bin, .safetensors), or a checkpoint
            of another run, of which the moving average is taken where it has one; empty for random ones. A run that
            continues no longer needs it.
        head: keep (the classifier of `weights` too) or new (a random one, for other classes); read only if there are
            weights.
    """

    form: Form = Form.reference
    depth: int = 13
    initial_width: int = 24
    slope: float = 36.0
    quantization: float = 2.5
    bottleneck_ratio: float = 1.0
    group_width: int = 8
    stem_width: int = 32
    se_ratio: Share = 0.0
    rounding: Rounding = "nearest"
    weights: str = ""
    head: Literal["keep", "new"] = "keep"

    def design(self) -> Design:
        """The network's skeleton. Raises UsageError for an impossible one."""
        options = asdict(self)
        del options["weights"], options["head"]  # what it begins with is no part of it
        return generate_design(**options)


@dataclass(frozen=True)
class DataConfig:
    """The samples.

    Args:
        shards: directory that python -m data.convert wrote.
        stage: directory on each machine's own disk into which one process there copies the shards first; empty to
            read them where they are.
        resolution: side of the images that the network sees, pixels; stored images are enlarged to it.
        first_resolution: side of the training images in the first epoch, which grows to `resolution`, in steps of 4
            pixels, over growing_epochs; read only if that is not 0.
        growing_epochs: length of that growth; 0 for training images of `resolution` throughout. Losses of different
            sides are compared by early_stopping on train_loss; with train.compile the second side makes what was
            compiled one for images of any side.
        drop_last: leave out an epoch's last batch if it is smaller than the others.
        verify: SHA-256 of the shards: once on each machine, always, or sizes alone.
        workers: decoding threads of each process; 1 is plenty for raw images, and on a CPU more slow the steps.
        batches_ahead: batches decoded before they are needed.
        loader_timeout: seconds without a batch before the loader counts as stalled.
        cache: none (decoded in each epoch), device (decoded once, into the memory of the GPU or the process), or
            auto (device on a GPU with plenty of room, none otherwise); the numbers are the same.
        window: training samples that are shuffled among one another before the next are read, for data sets larger
            than memory; 0 for all of them.
        keep_pages: let the system keep what was read of the shards in memory that is free; otherwise it is given back
            after each window (or batch, without windows), for machines whose memory others need.
        middle: side of the square that is cut out of test images, over their shorter side; read only where
            augment.smallest_cut cuts training images.
    """

    shards: str = "shards/cifar100"
    stage: str = ""
    resolution: Side = 56
    first_resolution: Side = 32
    growing_epochs: NonNegativeInt = 0
    drop_last: bool = False
    verify: Literal["once", "always", "sizes"] = "once"
    workers: Few = 1
    batches_ahead: Few = 3
    loader_timeout: PositiveReal = 60.0
    cache: Literal["none", "device", "auto"] = "none"
    window: NonNegativeInt = 0
    keep_pages: bool = True
    middle: Part = 0.875


@dataclass(frozen=True)
class AugmentConfig:
    """What happens to training images; a sample's draws depend on (seed, epoch, sample id) alone.

    Args:
        flip: mirror half of the images left to right.
        crop_padding: pixels of black border around the stored image before its size is cut out at random.
        smallest_cut: share of a stored image's area that is cut out at least, at random and in shapes from 3:4 to
            4:3, and resized to data.resolution; 0 for whole images. Images of mixed sizes need it.
        cutout: side of a square of the mean colour, pixels of the stored image (of what was cut out); 0 for none.
        operations: of RandAugment, one after another; 0 for none.
        magnitude: of each of them, 0 to 30; read only if there are any.
        mixup: share of samples that are blended with another sample, image and label.
        cutmix: share of samples, others than those, that have a rectangle of another sample in them.
    """

    flip: bool = True
    crop_padding: Pixels = 4
    smallest_cut: Share = 0.0
    cutout: Pixels = 0
    operations: Layers = 0
    magnitude: Level = 9
    mixup: Share = 0.0
    cutmix: Share = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """The loop.

    Args:
        epochs: to train in all.
        batch_size: samples of one optimiser step over all processes.
        accumulate: parts that each process computes its share of a batch in, to save memory.
        precision: fp32, bf16 or fp16 (with a gradient scaler).
        channels_last: memory format of images and weights; otherwise channels come first.
        label_smoothing: share of every target that is spread over all classes.
        init_std: standard deviation, around 0, of the first weights of convolutions and classifier, whose biases are
            then 0; 0 keeps PyTorch's own weights and biases.
        zero_init: let every block begin as its shortcut, with a weight of zero in its last BatchNorm.
        drop_path: share of samples that skip the last block, fewer the blocks before it (stochastic depth).
        freeze_trunk: train the head alone; stem and body keep their weights and BatchNorm's statistics.
        compile: torch.compile the network.
        autotune: let cuDNN time its algorithms for the first batch and keep the fastest, which takes seconds; not where
            deterministic.
        cuda_graphs: record the kernels of a step once and launch them together, in a run of one process on a GPU that
            neither accumulates nor detects anomalies; any other run launches them one by one.
        sync_batchnorm: statistics over the whole batch instead of each process's share.
        deterministic: only algorithms that repeat to the bit.
        detect_anomaly: name the operation whose gradient is not finite; slow.
        device: auto (CUDA where there is a GPU), cpu or cuda.
        max_steps: stop each epoch after this many steps, for trying things out; 0 for whole epochs.
        max_minutes: save and leave, to be continued by the same command, after so long; 0 for never.
    """

    epochs: PositiveInt = 40
    batch_size: PositiveInt = 500
    accumulate: PositiveInt = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    label_smoothing: Fraction = 0.0
    init_std: Fraction = 0.0
    zero_init: bool = False
    drop_path: Fraction = 0.0
    freeze_trunk: bool = False
    compile: bool = False
    autotune: bool = True
    cuda_graphs: bool = False
    sync_batchnorm: bool = False
    deterministic: bool = False
    detect_anomaly: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_steps: NonNegativeInt = 0
    max_minutes: NonNegativeReal = 0.0


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser.

    Args:
        name: adam, adamw, sgd (with Nesterov momentum) or muon (sgd, whose steps along the convolutions between stem
            and head are made orthogonal).
        lr: peak learning rate.
        muon_lr: that of orthogonal steps; read by muon alone.
        momentum: of sgd and muon; Adam's first beta.
        beta2: Adam's second beta.
        weight_decay: decoupled for adamw, an L2 term otherwise; orthogonal steps have their own.
        muon_weight_decay: that of orthogonal steps, decoupled: each takes this much of the weights, times its rate;
            read by muon alone.
        decay_norm_and_bias: apply weight_decay to BatchNorm's parameters and to biases too.
        layer_decay: learning rate of a block over that of the block after it; the head has the whole rate, the last
            block this much of it, the stem the least. 1 for one rate.
        clip_norm: largest norm of the gradient; 0 for no limit.
        ema_decay: decay per step of a moving average of the weights, which is then what is evaluated; 0 for none.
    """

    name: Literal["adam", "adamw", "sgd", "muon"] = "adam"
    lr: PositiveReal = 0.001
    muon_lr: PositiveReal = 0.02
    momentum: Fraction = 0.9
    beta2: Fraction = 0.999
    weight_decay: Strength = 0.0
    muon_weight_decay: Strength = 0.0
    decay_norm_and_bias: bool = False
    layer_decay: Part = 1.0
    clip_norm: Strength = 0.0
    ema_decay: Fraction = 0.0


@dataclass(frozen=True)
class DistillConfig:
    """Learning from another network, mostly a larger one, beside the labels (Hinton et al. 2015).

    Args:
        teacher: checkpoint of a run on images of the same classes; empty for none. A run that continues needs it too,
            unaltered.
        share: of the loss that is the distance to the teacher's answers; read only if there is one.
        temperature: by which both networks' logits are divided for it.
    """

    teacher: str = ""
    share: Share = 0.5
    temperature: PositiveReal = 2.0


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over the run; it rises from start_lr to optim.lr and falls to min_lr.

    Args:
        name: cosine (linear rise, half cosine to the last step), onecycle (cosine rise and fall) or
            reference (constant in an epoch: linear rise, quarter cosine over decay_epochs, then min_lr).
        warmup_epochs: length of the rise.
        decay_epochs: reference alone: length of the fall.
        start_lr: learning rate of the first step.
        min_lr: learning rate at the end.
    """

    name: Literal["cosine", "onecycle", "reference"] = "reference"
    warmup_epochs: NonNegativeInt = 5
    decay_epochs: PositiveInt = 14
    start_lr: NonNegativeReal = 0.00001
    min_lr: NonNegativeReal = 0.00001


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept for a resume, beside one checkpoint at the end of each epoch.

    Args:
        keep_last: newest checkpoints that stay on disk; the best stays as well.
        every_steps: also within an epoch, every so many steps; 0 for never.
        every_minutes: also within an epoch, when so much time has passed; 0 for never.
    """

    keep_last: PositiveInt = 2
    every_steps: NonNegativeInt = 0
    every_minutes: NonNegativeReal = 0.0


@dataclass(frozen=True)
class EarlyStoppingConfig:
    """When to give up.

    Args:
        monitor: train_loss (lower is better) or val_accuracy (higher is better).
        patience: epochs in a row without improvement before the run stops; 0 for never.
    """

    monitor: Literal["train_loss", "val_accuracy"] = "train_loss"
    patience: NonNegativeInt = 5


@dataclass(frozen=True)
class TrackingConfig:
    """What is reported, and where.

    Args:
        wandb: auto (online if there is a key, else offline), online, offline or disabled.
        project: of Weights & Biases.
        group: of Weights & Biases, to gather runs; empty for none.
        wandb_artifact: give Weights & Biases the best checkpoint at the end; raise wandb_timeout for a slow network.
        wandb_timeout: seconds that Weights & Biases may delay the run's start, and its end.
        report: make the page of python -m regnet.report when the run is done.
        log_every: steps between reports of loss and learning rate; the device is asked for numbers only then.
        progress_every: seconds between lines about an epoch under way, in a log, where no progress bar can be
            drawn; 0 for none.
    """

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "regnet"
    group: str = ""
    wandb_artifact: bool = False
    wandb_timeout: PositiveReal = 5.0
    report: bool = True
    log_every: PositiveInt = 20
    progress_every: NonNegativeReal = 60.0


@dataclass(frozen=True)
class DistributedConfig:
    """Several processes.

    Args:
        timeout: seconds after which a process that waits for another in an exchange gives up.
        heartbeat_timeout: seconds without a sign of life after which a process counts as gone, and all end.
    """

    timeout: PositiveReal = 600.0
    heartbeat_timeout: PositiveReal = 20.0


@dataclass(frozen=True)
class Config:
    """A run.

    Args:
        name: of the run; its results are in runs_dir/name.
        runs_dir: where runs are kept.
        seed: of the weights, the order of samples, their augmentation, and of who skips blocks.
        resume: auto (continue from the newest whole checkpoint, if any) or never.
    """

    name: str = "run"
    runs_dir: str = "runs"
    seed: Seed = 0
    resume: Literal["auto", "never"] = "auto"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def to_yaml(self) -> str:
        """The whole configuration, as a file that reads back to the same one."""
        return yaml.safe_dump(plain(asdict(self)), sort_keys=False, allow_unicode=True)


def plain(value: Any) -> Any:
    """The value as one of the plain types that YAML, JSON and checkpoints have."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    for kind in (str, bool, int, float):  # jsonargparse's bounded numbers are subclasses, enum members too
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"{value!r} is no plain value")
