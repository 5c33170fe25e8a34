"""The program `mnv4`: what has to be said before TensorFlow is loaded, and then `keras_mnv4.cli`."""

import os


def main():
    """Runs the command that the program was called with; returns its exit status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its messages would bury those of the command
    from keras_mnv4 import cli

    return cli.main()
