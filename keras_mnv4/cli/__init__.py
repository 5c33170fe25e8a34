"""`mnv4`: the package's functions from the command line."""

import contextlib
import json
import signal
import sys
import threading

from keras_mnv4.cli.parser import make_parser


def main(argv=None):
    """Runs one command.

    Args:
        argv: its words; None for those that the program was called with.

    Returns:
        The exit status: 0 done, 1 a check or the job failed, 130 interrupted. Wrong arguments end the program with 2,
        and SIGTERM with 143.

    Example:

    >>> main(["check", "vision.tflite"])
    0
    """
    arguments = make_parser().parse_args(argv)
    if threading.current_thread() is threading.main_thread():  # so that temporary files are cleared away
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        # With --json, all that is not the answer goes where messages go.
        with contextlib.redirect_stdout(sys.stderr) if arguments.json else contextlib.nullcontext():
            outcome = arguments.command(arguments)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if arguments.traceback:
            raise
        print(f"mnv4: {_message(error)}", file=sys.stderr)
        if arguments.json:
            print(json.dumps({"ok": False, "error": str(error)}))
        return 1
    print(json.dumps({"ok": outcome.ok, **outcome.facts}, indent=2, default=str) if arguments.json else outcome.text)
    return 0 if outcome.ok else 1


def _message(error):
    """What went wrong, as the package says it; with the way to the trace where it is not the package that speaks."""
    if isinstance(error, (ImportError, OSError, RuntimeError, ValueError)):
        return str(error)
    return f"{type(error).__name__}: {error}. `mnv4 --traceback ...` says where; please report it."
