"""Loads one epoch of shards and prints, as JSON, by how many bytes files in this process's memory grew at most.

python tests/streamed.py SHARDS WINDOW KEEP_PAGES
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.loader import Place, open_loaders
from data.manifest import read_manifest
from regnet.config.schema import AugmentConfig, Config, DataConfig, TrainConfig
from regnet.data_adapter import loader_options


def of_files() -> int:
    """Bytes of mapped files that are in this process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssFile:"))


directory, window, keep_pages = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "true"
config = Config(
    data=DataConfig(resolution=64, shuffle_window=window, keep_page_cache=keep_pages),
    augment=AugmentConfig(rrc_min_scale=0.3, crop_padding=0),
    train=TrainConfig(batch_size=20),
)
manifest = read_manifest(directory)
train, val = open_loaders(directory, manifest, loader_options(config), Place(0, 1, torch.device("cpu")))
before, most, seen = 0, 0, 0
for loader in (train.epoch(0), train.epoch(1), val):
    for batch in loader:
        seen += len(batch.labels)
        before = before or of_files()  # with what was compiled and loaded for the first batch
        most = max(most, of_files())
print(json.dumps({"grew": most - before, "seen": seen}))
