"""How work that takes long is shown while it runs."""

import sys


def resolve_verbose(verbose):
    """What `keras.Model.fit` takes for a `verbose` that may be `"auto"`: a bar on a terminal, else a line an epoch.

    (Keras's own `"auto"` is a bar everywhere, which fills files of logs.)

    Example:

    >>> resolve_verbose(0)
    0
    """
    return (1 if sys.stdout.isatty() else 2) if verbose == "auto" else verbose
