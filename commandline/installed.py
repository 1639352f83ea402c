"""The commands that pip installs.

Each runs its module as the main program, as `python -m` does, rather than imports it: a main program handles signals
before its slow imports.
"""

import runpy
from collections.abc import Callable


def _main_program(module: str) -> Callable[[], object]:
    return lambda: runpy.run_module(module, run_name="__main__", alter_sys=True)


convert = _main_program("data.convert")
doctor = _main_program("regnet.doctor")
evaluate = _main_program("regnet.evaluate")
export = _main_program("regnet.export")
predict = _main_program("regnet.predict")
report = _main_program("regnet.report")
runs = _main_program("regnet.runs")
summary = _main_program("regnet.summary")
sweep = _main_program("regnet.sweep")
train = _main_program("train_ddp")
