"""bf16 on a CPU that emulates it: a line of the trainer, and a warning of the doctor that does not fail.

ONEDNN_MAX_CPU_ISA=AVX2 takes bf16 away from oneDNN, as on an x86 CPU without AVX-512.
"""

import platform

import pytest
import torch
from doctor_command import doctor_command, printed_findings
from processes import PYTHON, run, trainer

from regnet.training.amp import has_bf16_instructions

PROBLEM = "PyTorch emulates bf16 on this CPU, so training is slower than in fp32"
FIX = "use --train.precision fp32"
BF16 = ("--train.precision", "bf16")
SHORT = ("--train.epochs", "1", "--train.max_steps_per_epoch", "1", "--schedule.warmup_epochs", "0")
EMULATED, NATIVE = {"ONEDNN_MAX_CPU_ISA": "AVX2"}, {"ONEDNN_MAX_CPU_ISA": "DEFAULT"}

on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="ONEDNN_MAX_CPU_ISA=AVX2 is for x86")
with_bf16 = pytest.mark.skipif(
    not has_bf16_instructions(torch.cpu.get_capabilities()), reason="needs a CPU with bf16 instructions"
)
CASES = [
    pytest.param(BF16, EMULATED, True, marks=on_x86, id="bf16-emulated"),
    pytest.param((), EMULATED, False, marks=on_x86, id="fp32"),
    pytest.param(BF16, NATIVE, False, marks=with_bf16, id="bf16-native"),
]


@pytest.mark.parametrize(("flags", "env", "emulated"), CASES)
def test_the_trainer_says_once_that_bf16_is_emulated(shards, tmp_path, flags, env, emulated):
    done = run(trainer(tmp_path, shards, *SHORT, *flags, processes=2), **env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines().count(f"{PROBLEM}: {FIX}") == emulated
    assert ("emulates" in done.stdout + done.stderr) is emulated


@pytest.mark.parametrize(("flags", "env", "emulated"), CASES)
def test_the_doctor_warns_that_bf16_is_emulated(shards, tmp_path, flags, env, emulated):
    done = run(doctor_command(tmp_path, shards, *flags, "--json"), **env)
    found = printed_findings(done).get("precision")
    assert done.returncode == 0, done.stdout
    warning = found and (found["severity"], found["message"], found["fix"])
    assert warning == (("WARN", PROBLEM, FIX) if emulated else None)


@on_x86
def test_a_gpu_is_never_said_to_emulate_bf16():
    program = (
        "import torch; from regnet.training.amp import precision_problem\n"
        "print([precision_problem('bf16', torch.device(name)) for name in ('cpu', 'cuda')])"
    )
    assert run([*PYTHON, "-c", program], **EMULATED).stdout.strip() == str([PROBLEM, ""])


@pytest.mark.parametrize(
    ("instructions", "native"),
    [
        ("avx2 avx512_f avx512_vnni", False),  # oneDNN accepts this CPU, and converts
        ("avx2 avx512_f avx512_bf16", True),
        ("avx2 avx512_f amx_bf16", True),
        ("avx2 avx_ne_convert", True),
        ("neon", False),
        ("neon bf16", True),
    ],
)
def test_bf16_instructions_are_recognised_among_those_of_a_cpu(instructions, native):
    absent = dict.fromkeys(("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"), False)
    present = dict.fromkeys(instructions.split(), True)
    assert has_bf16_instructions({**absent, **present, "architecture": "any"}) is native
