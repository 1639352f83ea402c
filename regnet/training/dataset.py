"""What training needs to know about the dataset; data.manifest.Manifest is one."""

from typing import Protocol


class Dataset(Protocol):
    """The images that a run trains on.

    Attributes:
        classes: class names, by label.
        identity: equal for the same images with the same labels.
        mean, std: per channel, as used to normalise the images; a byte is scaled to 0..1.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def identity(self) -> str: ...

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...
