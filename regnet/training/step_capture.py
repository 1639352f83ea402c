"""What a run captures as CUDA graphs: the one place that decides."""

from functools import partial

from torch.nn.parallel import DistributedDataParallel

from regnet.config.schema import TrainConfig
from regnet.distributed.world import World
from regnet.errors import UsageError
from regnet.optim.muon import Muon
from regnet.training.batches import TrainingBatches
from regnet.training.cuda_graphs import CapturedFunction, GraphCapture, supports_graphs
from regnet.training.flat_network import FlatNetwork
from regnet.training.train_step import TrainStep


def capture_step(train_step: TrainStep, train_batches: TrainingBatches) -> None:
    """Lets the passes, augmentation, Muon's updates, evaluation and the teacher be captured at their first uses.

    Raises:
        UsageError: train.cuda_graphs is true, but the passes cannot be captured.
    """
    train, world = train_step.config.train, train_step.world
    network = train_step.network
    if isinstance(network, DistributedDataParallel):
        network = network.module
    problem = why_not_captured(train, world, isinstance(network, FlatNetwork))
    if problem and train.cuda_graphs == "true":
        raise UsageError(f"train.cuda_graphs is true, but {problem}: use auto or false")
    if train.cuda_graphs == "false" or not supports_graphs(world.device):
        return

    def report(message: str) -> None:
        print(f"rank {world.rank}: {message}" if world.size > 1 else message, flush=True)

    def capture(what: str) -> GraphCapture:
        return GraphCapture(what, train.cuda_graphs == "true", report)

    if isinstance(network, FlatNetwork) and not problem:
        network.capture = capture("the forward and backward passes")
    state, loss = train_step.state, train_step.loss
    train_batches.capture = partial(CapturedFunction, capture("the augmentations"))
    train_step.predict = CapturedFunction(capture("the evaluation's passes"), train_step.predict)
    if loss.teacher is not None:
        loss.teacher = CapturedFunction(capture("the teacher's passes"), loss.teacher)
    if isinstance(state.optimizer, Muon):
        state.optimizer.orthogonalize = CapturedFunction(capture("Muon's updates"), state.optimizer.orthogonalize)


def why_not_captured(train: TrainConfig, world: World, flat: bool) -> str:
    """Why forward and backward passes cannot be captured; empty if they can.

    Args:
        flat: whether the network is a FlatNetwork.
    """
    if not supports_graphs(world.device):
        return "the run uses no GPU"
    if train.detect_anomaly:
        return "train.detect_anomaly waits for the device in every pass"
    if train.sync_batchnorm and world.size > 1:
        return "train.sync_batchnorm communicates in every pass"
    return "" if flat else "the network is so large that its gradients are exchanged during the backward pass"
