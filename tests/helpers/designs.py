"""Parameters of generate_design: those of the original network, and of a small one."""

from regnet.models.design_space import Variant

BASELINE = {
    "variant": Variant.baseline,
    "depth": 13,
    "w_0": 24,
    "w_a": 36,
    "w_m": 2.5,
    "bottleneck_ratio": 1,
    "group_width": 8,
    "stem_width": 32,
}
SMALL = BASELINE | {"depth": 2, "w_0": 8, "stem_width": 8}
