"""The argument parser of every command but the trainer (regnet.config.parser), and types of its options."""

import argparse
import math
from typing import NoReturn

from commandline.errors import InputError


class ArgumentParser(argparse.ArgumentParser):
    """Reports wrong usage in one line, as run_command does every other error. argparse itself prints the usage, too."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def positive_integer(text: str) -> int:
    """The type of an option that is a positive integer."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 18 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def positive_number(text: str) -> float:
    """The type of an option that is a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value
