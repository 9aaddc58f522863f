"""Command lines: what is wrong is told in one line."""

import argparse


class Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, without the usage in front; exits with 2."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message}\n")
