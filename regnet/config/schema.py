"""Every option of a run: name, type, bounds and default.

regnet.config.parser reads them from files and flags; regnet.config.validation rejects impossible combinations.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import yaml

from regnet.config.types import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PathText,
    Pixels,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Probability,
    RandAugmentMagnitude,
    RandAugmentOps,
    Seed,
    SideLength,
    SmallCount,
    Strength,
    Temperature,
)
from regnet.models.design_space import Design, Rounding, Variant, generate_design


@dataclass(frozen=True)
class ModelConfig:
    """The network: RegNet design parameters (Radosavovic et al. 2020, section 3.3).

    Args:
        variant: baseline (3x3 convolution as wide as the block's input, stem stride 1) or paper (as wide as the
            block's output, stem stride 2).
        depth: number of blocks.
        w_0: initial width in channels; a multiple of 8.
        w_a: slope of the widths in channels per block.
        w_m: ratio between the widths of successive stages; above 1.
        bottleneck_ratio: width of the 3x3 convolution divided by the block's width.
        group_width: channels per group of the 3x3 convolution.
        stem_width: channels of the stem.
        se_ratio: squeeze-and-excitation of RegNetY: inner channels divided by the block's input channels; 0 for none.
        rounding: how widths become multiples of group_width: nearest (the published code, timm) or torchvision (which
            makes some networks wider).
        weights: file of pretrained weights: torchvision's or timm's (.pth, .bin, .safetensors), or a checkpoint of
            another run, whose EMA weights are used if it has any; empty for random initialisation. Not needed to
            resume.
        head: keep (load the classifier as well) or new (initialise it, for other classes); used only with weights.
    """

    variant: Variant = Variant.baseline
    depth: int = 13
    w_0: int = 24
    w_a: float = 36.0
    w_m: float = 2.5
    bottleneck_ratio: float = 1.0
    group_width: int = 8
    stem_width: int = 32
    se_ratio: Probability = 0.0
    rounding: Rounding = "nearest"
    weights: PathText = ""
    head: Literal["keep", "new"] = "keep"

    def design(self) -> Design:
        """Widths, depths and strides of the network. Raises UsageError for impossible parameters."""
        options = asdict(self)
        del options["weights"], options["head"]
        return generate_design(**options)


@dataclass(frozen=True)
class DataConfig:
    """The dataset and how it is read.

    Args:
        shards: directory written by python -m data.convert.
        local_cache_dir: directory on each node's local disk to copy the shards to first (one process per node copies);
            empty to read them in place.
        resolution: side of the network's input in pixels; stored images are resized to it.
        initial_resolution: side of the training images in the first epoch of progressive resizing in pixels; used only
            with progressive_resizing_epochs.
        progressive_resizing_epochs: epochs over which training images grow from initial_resolution to resolution, in
            steps of 4 pixels; 0 for none. Early stopping on train_loss compares losses of different resolutions;
            train.compile compiles anew for each resolution.
        drop_last: drop an epoch's last batch if it is incomplete.
        verify: which shards to check with SHA-256: once per node, always, or sizes (check file sizes only).
        workers: decoding threads per process, reduced to those that the process may use; one is enough for raw images,
            and on a CPU more slow down training.
        prefetch_batches: batches decoded ahead of time.
        loader_timeout: seconds without a batch after which the loader counts as stalled.
        cache: where decoded images are kept: none (decode every epoch), device (memory of the GPU or process) or auto
            (device on a GPU with enough free memory, none otherwise); results do not depend on it.
        shuffle_window: training samples that are shuffled together before the next ones are read, for datasets larger
            than memory; 0 for a global shuffle.
        keep_page_cache: keep shards in the operating system's page cache; false drops them after each window (or
            batch, without windows), for nodes whose memory others need.
        center_crop_ratio: side of the square centre crop of validation images divided by their shorter side; used only
            with augment.rrc_min_scale.
    """

    shards: PathText = "shards/cifar100"
    local_cache_dir: PathText = ""
    resolution: SideLength = 56
    initial_resolution: SideLength = 32
    progressive_resizing_epochs: NonNegativeInt = 0
    drop_last: bool = False
    verify: Literal["once", "always", "sizes"] = "once"
    workers: SmallCount = 1
    prefetch_batches: SmallCount = 3
    loader_timeout: PositiveFloat = 60.0
    cache: Literal["none", "device", "auto"] = "auto"
    shuffle_window: NonNegativeInt = 0
    keep_page_cache: bool = True
    center_crop_ratio: PositiveFraction = 0.875


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training images; a sample's random numbers depend on (seed, epoch, sample id) alone.

    Args:
        flip: flip half of the images horizontally.
        crop_padding: zero padding around the stored image before a random crop of its original size, in pixels; 0 with
            rrc_min_scale.
        rrc_min_scale: smallest area of a RandomResizedCrop, as a fraction of the image; aspect ratios are 3:4 to 4:3;
            0 for whole images (0.25 is used instead if the dataset stores images in their own shapes).
        cutout_size: side of the square that Cutout fills with the mean colour, in pixels of the stored (or cropped)
            image; 0 for none.
        randaugment_num_ops: RandAugment operations applied to each image in sequence; 0 for none.
        randaugment_magnitude: magnitude of every RandAugment operation, 0 to 30; used only with randaugment_num_ops.
        mixup_prob: probability that a sample is blended with another one (Mixup, lambda uniform in 0..1).
        cutmix_prob: probability that a rectangle of another sample is pasted into a sample (CutMix, lambda uniform in
            0..1); a sample gets either Mixup or CutMix.
    """

    flip: bool = True
    crop_padding: Pixels = 4
    rrc_min_scale: Probability = 0.0
    cutout_size: Pixels = 0
    randaugment_num_ops: RandAugmentOps = 0
    randaugment_magnitude: RandAugmentMagnitude = 9
    mixup_prob: Probability = 0.0
    cutmix_prob: Probability = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """The training loop.

    Args:
        epochs: total number of epochs.
        batch_size: global batch size: samples per optimiser step, over all processes and accumulation steps.
        grad_accum_steps: forward and backward passes per optimiser step in each process, to save memory.
        precision: fp32, bf16 (slower than fp32 on a CPU without bf16 instructions) or fp16 (with a gradient scaler).
        channels_last: use the channels-last memory format for images and weights.
        label_smoothing: probability mass of the target that is spread over all classes.
        init_std: standard deviation of a normal initialisation of convolutions and classifier, with zero biases; 0 for
            PyTorch's default initialisation.
        zero_init_residual: initialise the last BatchNorm weight of every block to zero, so that blocks start as their
            shortcut.
        drop_path: stochastic depth: probability of skipping the last block, decreasing linearly to the first.
        freeze_backbone: train the head only; stem and body keep their weights and BatchNorm statistics.
        compile: torch.compile the stem and the blocks of the network, each form of block once for each shape of images.
        cudnn_benchmark: let cuDNN time its algorithms on the first batch (takes seconds); ignored if deterministic.
        cuda_graphs: capture the kernels of a step as CUDA graphs and replay them. auto: on GPUs, as far as possible;
            true: an error if forward and backward passes cannot be captured; false: never.
        sync_batchnorm: compute BatchNorm statistics over the global batch instead of each process's part.
        deterministic: use deterministic algorithms only.
        detect_anomaly: end the run at the first gradient that is NaN and name the operation that produced it; slow.
        device: auto (CUDA if available), cpu or cuda.
        max_steps_per_epoch: stop every epoch after this many steps, for smoke tests; 0 for full epochs.
        max_minutes: save a checkpoint and exit as preempted after this time; 0 for no limit.
    """

    epochs: PositiveInt = 40
    batch_size: PositiveInt = 500
    grad_accum_steps: PositiveInt = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    label_smoothing: Fraction = 0.0
    init_std: Fraction = 0.0
    zero_init_residual: bool = False
    drop_path: Fraction = 0.0
    freeze_backbone: bool = False
    compile: bool = False
    cudnn_benchmark: bool = True
    cuda_graphs: Literal["auto", "true", "false"] = "auto"
    sync_batchnorm: bool = False
    deterministic: bool = False
    detect_anomaly: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_steps_per_epoch: NonNegativeInt = 0
    max_minutes: NonNegativeFloat = 0.0


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser.

    Args:
        name: adam, adamw, sgd (with Nesterov momentum) or muon (orthogonalised momentum for the convolutions between
            stem and head, sgd for everything else).
        lr: peak learning rate.
        muon_lr: peak learning rate of Muon's orthogonalised updates; used only by muon.
        momentum: momentum of sgd and muon; beta1 of adam and adamw.
        beta2: beta2 of adam and adamw.
        weight_decay: decoupled for adamw, L2 regularisation otherwise; Muon's updates use muon_weight_decay.
        muon_weight_decay: decoupled weight decay of Muon's orthogonalised updates; used only by muon.
        decay_norm_and_bias: apply weight_decay to BatchNorm parameters and biases as well.
        layer_decay: layer-wise learning-rate decay: ratio between the learning rates of a block and the next one, from
            the head (full learning rate) down to the stem; 1 for none.
        clip_norm: maximum norm of the gradient; 0 for no clipping.
        ema_decay: decay per step of an exponential moving average of the weights, which is then evaluated; step t, from
            0, uses at most (1 + t) / (10 + t), so that the initialisation is soon forgotten; 0 for none.
    """

    name: Literal["adam", "adamw", "sgd", "muon"] = "adamw"
    lr: PositiveFloat = 0.001
    muon_lr: PositiveFloat = 0.02
    momentum: Fraction = 0.9
    beta2: Fraction = 0.999
    weight_decay: Strength = 0.0005
    muon_weight_decay: Strength = 0.05
    decay_norm_and_bias: bool = False
    layer_decay: PositiveFraction = 1.0
    clip_norm: Strength = 0.0
    ema_decay: Fraction = 0.0


@dataclass(frozen=True)
class DistillConfig:
    """Knowledge distillation from another, usually larger network (Hinton et al. 2015).

    Args:
        teacher: checkpoint of a run on the same classes; empty for none. The same file is needed to resume.
        alpha: weight of the distillation loss; the label loss gets 1 - alpha. Used only with a teacher.
        temperature: softmax temperature of both networks' logits in the distillation loss.
    """

    teacher: PathText = ""
    alpha: Probability = 0.5
    temperature: Temperature = 2.0


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning-rate schedule: warm-up from start_lr to optim.lr, then decay to min_lr.

    Args:
        name: cosine (linear warm-up, half-cosine decay to the last step), onecycle (cosine warm-up and decay) or
            baseline (constant within an epoch: linear warm-up, quarter cosine over decay_epochs, then min_lr).
        warmup_epochs: length of the warm-up.
        decay_epochs: length of the decay; used only by baseline.
        start_lr: learning rate of the first step.
        min_lr: learning rate at the end.
    """

    name: Literal["cosine", "onecycle", "baseline"] = "cosine"
    warmup_epochs: NonNegativeInt = 5
    decay_epochs: PositiveInt = 14
    start_lr: NonNegativeFloat = 0.00001
    min_lr: NonNegativeFloat = 0.00001


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and how many are kept; one is always written at the end of an epoch.

    Args:
        keep_last: number of newest checkpoints to keep; best.pt is kept in addition.
        every_steps: also save every this many steps; 0 for never.
        every_minutes: also save this long after the last checkpoint within an epoch; 0 for never.
    """

    keep_last: PositiveInt = 2
    every_steps: NonNegativeInt = 0
    every_minutes: NonNegativeFloat = 0.0


@dataclass(frozen=True)
class EarlyStoppingConfig:
    """When a run stops before its last epoch.

    Args:
        monitor: train_loss (lower is better) or val_top1 (higher is better).
        patience: consecutive epochs without improvement after which the run stops; 0 to disable early stopping.
    """

    monitor: Literal["train_loss", "val_top1"] = "train_loss"
    patience: NonNegativeInt = 0


@dataclass(frozen=True)
class TrackingConfig:
    """Metrics on the console, at Weights & Biases and in the report.

    Args:
        wandb: auto (as WANDB_MODE, WANDB_DISABLED or wandb's settings file says; without them, online if an API key is
            found, otherwise offline), online, offline or disabled.
        wandb_project: Weights & Biases project; empty for that of WANDB_PROJECT or wandb's settings file, without them
            regnet.
        wandb_group: Weights & Biases group; empty for WANDB_RUN_GROUP or none.
        wandb_artifact: upload the best checkpoint to Weights & Biases at the end; a slow network needs a larger
            wandb_timeout.
        wandb_timeout: seconds that Weights & Biases may take to connect, and to finish at the end of a run.
        report: write the HTML report (python -m regnet.report) when the run finishes.
        console_format: format of the epoch lines: default, or baseline (the original one-GPU program's line, whose
            avg_loss is the mean loss divided by the batch size).
        console_classes: print the accuracy of every class when the run finishes; it is always in result.json and in
            the report.
        log_every: steps between reports of loss and learning rate; the device is synchronised only then.
        progress_every: seconds between progress lines within an epoch where the output is not a terminal; 0 for none.
    """

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    wandb_project: str = ""
    wandb_group: str = ""
    wandb_artifact: bool = False
    wandb_timeout: PositiveFloat = 5.0
    report: bool = True
    console_format: Literal["default", "baseline"] = "default"
    console_classes: bool = False
    log_every: PositiveInt = 20
    progress_every: NonNegativeFloat = 60.0


@dataclass(frozen=True)
class DistributedConfig:
    """Time limits for several processes.

    Args:
        timeout: seconds after which a collective operation fails.
        heartbeat_timeout: seconds without a heartbeat after which a rank counts as dead and all ranks exit.
    """

    timeout: PositiveFloat = 600.0
    heartbeat_timeout: PositiveFloat = 20.0


@dataclass(frozen=True)
class Config:
    """A run: its name, its directory, its seed, and what happens to earlier results.

    Args:
        name: name of the run; its results are in runs_dir/name.
        runs_dir: directory that holds all runs.
        seed: seed of initialisation, sample order, augmentation and stochastic depth.
        resume: auto (resume from the newest valid checkpoint, if any) or never (fail if the run exists).
        overwrite: delete the results of an existing run of this name and start over; a job that SLURM, torchrun or a
            launcher that sets REGNET_LAUNCH restarts with the same command resumes instead.
    """

    name: str = "run"
    runs_dir: PathText = "runs"
    seed: Seed = 0
    resume: Literal["auto", "never"] = "auto"
    overwrite: bool = False
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
        """All options as YAML, which parses back to an equal configuration."""
        return yaml.safe_dump(to_plain_types(asdict(self)), sort_keys=False, allow_unicode=True)


def to_plain_types(value: Any) -> Any:
    """The value with types that YAML, JSON and checkpoints can store: members of StrEnum become strings."""
    if isinstance(value, dict):
        return {key: to_plain_types(entry) for key, entry in value.items()}
    return str(value) if isinstance(value, str) else value
