"""The names of all options, and configurations from the text of a file."""

import dataclasses
import tempfile
from pathlib import Path

from regnet.config.parser import option_names, parse_config
from regnet.config.schema import Config

SECTIONS = [field.name for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type)]
OPTIONS = [name for name in option_names() if name not in SECTIONS]


def parse_text(text, *flags):
    """The configuration of a file with this text and of flags that follow it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return parse_config(["--config", str(path), *flags])
