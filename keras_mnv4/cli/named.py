"""What words of the command line name: networks and policies, by name or by file."""

import functools
import inspect
import pathlib

JSON = ".json"  # what ends the name of a file, and of no network and no policy


def network(name, alpha=1.0, argument="--model"):
    """What builds the network that a user names.

    Args:
        name: a constructor of `keras_mnv4.applications`, such as `MobileNetV4ConvSmall` or, as it may be spelled here,
            `conv_small`; or the `.json` file of an `Architecture`, as `mnv4 search` writes it.
        alpha: width multiplier.
        argument: what `name` was given as, for the message.

    Returns:
        A function that takes the other arguments of `keras_mnv4.applications.build_network` by name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is no such network, the file is of something else, or the network comes in one width.

    Example:

    >>> model = network("conv_small")(weights=None, classes=10)
    """
    from keras_mnv4 import applications
    from keras_mnv4.applications.network import check_rows
    from keras_mnv4.applications.network import read_architecture

    if pathlib.Path(name).suffix == JSON:
        architecture = read_architecture(name, argument)
        check_rows(architecture)
        build = functools.partial(applications.build_network, architecture)
    else:
        constructors = {_spelling(each): each for each in applications.ARCHITECTURES}
        if _spelling(name) not in constructors:
            raise ValueError(
                f"`{argument}` must be a network, or a file of one that is there. Received: {name}. Networks: "
                f"{', '.join(constructors.values())}."
            )
        build = getattr(applications, constructors[_spelling(name)])
    if alpha == 1:
        return build
    if "alpha" not in inspect.signature(build).parameters:
        raise ValueError(f"`--alpha` must be 1 for `{argument}` {name}, which comes in one width. Received: {alpha:g}")
    return functools.partial(build, alpha=alpha)


def policy(name):
    """The `keras_mnv4.qat.Policy` that `--policy` names: by its name, or by a `.json` file of what `to_json` gave.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is no such policy, or the file is of something else.

    Example:

    >>> policy("w4a8").name
    'w4a8'
    """
    from keras_mnv4 import qat

    path = pathlib.Path(name)
    if path.suffix != JSON:
        return qat.get_policy(name)
    if not path.is_file():
        raise FileNotFoundError(f"`--policy` names no file. Received: {path}")
    try:
        return qat.Policy.from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`--policy` must be a policy, or a .json file of one ({error}). Received: {path}") from error


def _spelling(name):
    """What `MobileNetV4ConvSmall` and `conv_small` have in common."""
    return name.lower().replace("_", "").removeprefix("mobilenetv4")
