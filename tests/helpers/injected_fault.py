"""A fault of the trainer: where it occurs, and how it replaces a training step."""

import os


class InjectedFault:
    """A fault, and the rank and step where it occurs."""

    def __init__(self, text: str) -> None:
        name, rank, step = [*text.split(":"), "", ""][:3]
        self.name, self.step = name, int(step or 1)  # step 0: every step
        self.on_this_rank = not rank or int(rank) == int(os.environ.get("RANK", "0"))
        self.steps = 0

    def apply(self) -> None:
        if self.on_this_rank:
            getattr(self, self.name)()

    def at_step(self, action) -> None:
        """Replaces each training step by action(is_faulty_step, original_step)."""
        from regnet.training.train_step import TrainStep

        original = TrainStep.run

        def step(train_step, batch, lr):
            self.steps += 1
            return action(self.step in (0, self.steps), lambda: original(train_step, batch, lr))

        TrainStep.run = step
