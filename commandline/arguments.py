"""The argument parser of every command but the trainer, which reads its options with regnet.config.parser."""

import argparse
from typing import NoReturn

from commandline.errors import InputError


class ArgumentParser(argparse.ArgumentParser):
    """Reports wrong usage in one line, as run_command does every other error. argparse itself prints the usage, too."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")
