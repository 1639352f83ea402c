"""Loads shards for two epochs and prints the peak growth of file-backed resident memory in bytes, as JSON.

python tests/helpers/measure_streaming.py SHARDS SHUFFLE_WINDOW KEEP_PAGE_CACHE
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from data.loader import RankInfo
from data.manifest import read_manifest
from data.open_loaders import open_loaders
from regnet.config.schema import AugmentConfig, Config, DataConfig, TrainConfig
from regnet.data_adapter import loader_options


def resident_file_bytes() -> int:
    """Resident bytes of this process's file mappings."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssFile:"))


directory, window, keep_page_cache = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "true"
config = Config(
    data=DataConfig(resolution=64, shuffle_window=window, keep_page_cache=keep_page_cache),
    augment=AugmentConfig(rrc_min_scale=0.3, crop_padding=0),
    train=TrainConfig(batch_size=20),
)
manifest = read_manifest(directory)
train, val = open_loaders(directory, manifest, loader_options(config), RankInfo(0, 1, torch.device("cpu")))
baseline, peak, samples = 0, 0, 0
for loader in (train.epoch(0), train.epoch(1), val):
    for batch in loader:
        samples += len(batch.labels)
        baseline = baseline or resident_file_bytes()  # after the first batch: includes compiled code and libraries
        peak = max(peak, resident_file_bytes())
print(json.dumps({"grew": peak - baseline, "samples": samples}))
