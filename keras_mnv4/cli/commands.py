"""What each command of `mnv4` does: a thin shell over the package's functions.

A command takes the parsed arguments and returns an `Outcome`. What it needs beyond the package's own import, such as
Keras Tuner, is imported in it, so that no command waits for what others need.
"""

import dataclasses
import pathlib
import sys

from keras_mnv4 import files
from keras_mnv4.cli import named

MODEL, WIDTH = "conv_small", 1.0  # of a new network, if nothing else is said
SPACES = {"small": "small_space", "tiny": "tiny_space"}
SIZE, EPOCHS, TUNING_EPOCHS = 64, 20, 2
LEAST_SIZE = 32  # pixels, of a network that is trained
PRICES = "energy45"
# How pictures are made unless options say otherwise: to look at and calibrate with, and for a supernet to learn from.
PAINTING = {"teacher_size": None, "pictures": 500, "rounds": 10, "steps": 2000, "noise": "white", "batch_size": None}
PAINTING_TO_SEARCH = {**PAINTING, "pictures": 6000, "rounds": 4, "steps": 120, "noise": "natural"}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command found.

    Args:
        text: it in words.
        facts: it as JSON-ready values.
        ok: whether all that was checked holds.
    """

    text: str
    facts: dict
    ok: bool = True


def train(arguments):
    from keras_mnv4 import training

    _check_paths(arguments)
    _check_size(arguments)
    build = named.network(arguments.model, arguments.alpha)
    if arguments.weights is not None:
        return _fine_tune(build, arguments)
    arguments.size = arguments.size or SIZE
    data = _load_data(arguments, arguments.size)
    model = _new_model(build, arguments, data)
    epochs = EPOCHS if arguments.epochs is None else arguments.epochs
    training.train(model, data, epochs, flip=_flips(arguments), backup_dir=arguments.backup)
    return _report_and_save(model, data, arguments)


def quantize(arguments):
    from keras_mnv4 import training

    _check_paths(arguments)
    policy = named.policy(arguments.policy)
    model = _load_classifier(arguments.model)
    data = _load_data(arguments, model.input_shape[1])
    _check_classes(model, arguments.model, data)
    flip = _flips(arguments)
    quantized = training.quantize(model, data, policy, arguments.epochs, flip=flip, backup_dir=arguments.backup)
    return _report_and_save(quantized, data, arguments)


def distill(arguments):
    from keras_mnv4 import data as sets
    from keras_mnv4 import training

    _check_paths(arguments)
    _check_size(arguments)
    build = named.network(arguments.model, arguments.alpha)
    ratio = _ratio(arguments.mix)
    if arguments.pool is not None and not arguments.pool.is_dir():
        raise ValueError(f"`--pool` must be a folder of pictures. Received: {arguments.pool}")
    training.check_ratio(ratio, arguments.pool is not None, ("--mix", "--pool"))
    if arguments.store is not None:
        files.check_folder(arguments.store, "--store")
    teacher = _load_model(arguments.teacher)
    data = _load_data(arguments, arguments.size)
    _check_classes(teacher, arguments.teacher, data)
    student = _new_model(build, arguments, data)
    how = {"ratio": ratio, "store": arguments.store, "flip": _flips(arguments), "backup_dir": arguments.backup}
    if arguments.data is not None:  # crops are of larger pictures than those shown
        how["pictures"] = sets.load_image_folder(arguments.data, 2 * arguments.size).train.pictures
    if arguments.pool is not None:
        how["pool"] = sets.picture_files(arguments.pool)
    training.distill(student, teacher, data, arguments.epochs, **how)
    return _report_and_save(student, data, arguments)


def export(arguments):
    from keras_mnv4 import export as exporting

    out = arguments.out or pathlib.Path("model.onnx" if arguments.target == "onnx" else "model.tflite")
    if out.suffix != (".onnx" if arguments.target == "onnx" else ".tflite"):
        raise ValueError(f"`--out` must end in .tflite, or with `--target onnx` in .onnx. Received: {out}")
    _check_file(out, arguments)
    if arguments.android is not None and arguments.target != "app":
        raise ValueError(f"`--android` takes files of `--target app`. Received: --target {arguments.target}")
    if arguments.android is not None:
        asset = exporting.check_android_project(arguments.android, overwrite=True)
        if asset.exists():
            _check_file(asset, arguments, "--android")
    model = _load_classifier(arguments.model) if arguments.data is not None else _load_model(arguments.model)
    samples = None
    if arguments.data is not None:
        samples = _load_data(arguments, model.input_shape[1]).test.arrays(64)[0].astype("float32")
    if arguments.target == "onnx":
        report = exporting.to_onnx(model, out, samples=samples, overwrite=arguments.overwrite)
    else:
        report = exporting.to_litert(
            model,
            out,
            arguments.target,
            samples=samples,
            class_names=_class_names_for(arguments.target, arguments.model, model),
            overwrite=arguments.overwrite,
        )
    named = report.agreements
    text = f"{report.path}: {report.size:,} bytes"
    text += "".join(f"\n{name}: {each}" for name, each in named.items()) if len(named) > 1 else f"; {report.agreement}"
    facts = {"file": report.path, "bytes": report.size, "agreement": dataclasses.asdict(report.agreement)}
    facts["agreements"] = {name: dataclasses.asdict(each) for name, each in named.items()}
    facts["float_layers"] = report.float_layers
    if report.float_layers:
        text += f"\nIn float: {', '.join(report.float_layers)}"
    if arguments.android is not None:
        facts["android"] = exporting.install_android(report.path, arguments.android, overwrite=arguments.overwrite)
        text += f"\n{facts['android']}"
    return Outcome(text, facts)


def check(arguments):
    from keras_mnv4 import export as exporting

    report = exporting.check_edgetpu(arguments.file)
    findings = [dataclasses.asdict(finding) for finding in report.findings]
    facts = {"operators": report.operators, "compiled": report.compiled, "findings": findings}
    return Outcome(str(report), facts, report.ok)


def cost(arguments):
    from keras_mnv4 import cost as costs

    if arguments.model.endswith(".tflite"):
        if arguments.out or arguments.policy or arguments.size or arguments.prices:
            raise ValueError("A .tflite file is timed: `--out`, `--policy`, `--prices` and `--size` are for models.")
        latency = costs.measure_operators(arguments.model)
        return Outcome(str(latency), dataclasses.asdict(latency))
    if arguments.out is not None:
        _check_file(arguments.out, arguments)
    prices = arguments.prices or PRICES
    found = _profile(arguments)
    if arguments.out is not None:
        found.save(arguments.out, prices, arguments.overwrite)
    ace_v2, elementwise = found.ace_v2(prices), found.elementwise_share(prices)
    waiting = {device: costs.roofline(found, device).memory_bound_share for device in costs.RIDGE_POINTS}
    text = (
        f"{found.table(prices)}\n"
        f"{found.parameters:,} parameters, {found.weight_bytes / 1e6:.2f} MB of weights, {found.macs:,} MACs; ACE "
        f"{found.ace():.3g}, ACEv2 {ace_v2:.3g}, of it elementwise {elementwise:.0%}; {found.energy() / 1e6:.3g} µJ at "
        "45 nm"
    )
    for device, share in waiting.items():
        text += f"\nin 8 bits on a {device}: {share:.0%} of the time waits for memory"
    facts = {
        "parameters": found.parameters,
        "weight_bytes": found.weight_bytes,
        "macs": found.macs,
        "ace": found.ace(),
        "ace_v2": ace_v2,
        "elementwise_share": elementwise,
        "energy_45nm_pj": found.energy(),
        "memory_bound_share": waiting,
    }
    return Outcome(text, facts)


def synthesize(arguments):
    files.check_folder(arguments.out, "--out")
    made = _synthesize(arguments, _load_model(arguments.model), arguments.model, arguments.out)
    sheet = made.directory / "contact_sheet.png"
    facts = {"directory": made.directory, "pictures": len(made), "contact_sheet": sheet}
    return Outcome(f"{made.directory}: {len(made)} pictures; {sheet}", facts)


def search(arguments):
    import numpy as np

    from keras_mnv4 import training
    from keras_mnv4 import tuner

    files.check_folder(arguments.out, "--out")
    limits = _limits(arguments.limit)
    bits = tuple(arguments.weight_bits)
    how = {"limits": limits, "epochs": arguments.epochs, "seed": arguments.seed}
    shape = (arguments.size, arguments.size, 3)
    _check_painting(arguments)
    _check_size(arguments)
    flip = _flips(arguments, is_painted=arguments.teacher is not None)
    how["augmentation"] = training.small_changes(flip)
    is_two_stage = arguments.space == "two-stage"
    if is_two_stage and arguments.strategy != "spos":
        raise ValueError("Two stages are searched with `--strategy spos`.")
    space = tuner.coarse_space() if is_two_stage else getattr(tuner, SPACES[arguments.space])(bits)
    # Before pictures are made, for their checks: that there are such measures and bits, and networks within the limits.
    tuner.CostModel(dataclasses.replace(space, weight_bits=bits), limits, shape)
    cost_bits = max(bits, default=None) if is_two_stage else None

    def check_limits(classes):
        tuner.CostModel(space, limits, shape, classes, cost_bits).sample(np.random.default_rng(arguments.seed))

    check_limits(classes=2)
    has_data = arguments.data is not None or arguments.teacher is None
    data = _load_data(arguments, arguments.size) if has_data else None
    searched = data
    if arguments.teacher is not None:
        teacher = _load_model(arguments.teacher)
        if data is not None:
            _check_classes(teacher, arguments.teacher, data)
        check_limits(teacher.output_shape[-1])
        made = _synthesize(arguments, teacher, arguments.teacher, arguments.out / "synthetic")
        searched = made.picture_data(arguments.size)
        how["teacher"] = _for_pictures(teacher, made.size, shape)
        data = data or searched
    if arguments.strategy == "spos":
        how.update(population=arguments.population, generations=arguments.generations)
        how.update(uniform_in="macs", objective="val_loss")  # as measured in docs/datafree.md
        if is_two_stage:
            found = tuner.two_stage_search(space, searched, arguments.out, bits, **how)
        else:
            found = tuner.search(space, searched, arguments.out, **how)
        found.save_results(arguments.out / "results.json", overwrite=True)
        space, candidate, accuracy = found.space, found.results()[0]["candidate"], found.results()[0]["accuracy"]
        lines, facts = [f"{accuracy:.2%} with shared weights"], {"shared_weights_top1": accuracy}
    else:
        candidate = tuner.gradient_search(space, searched, arguments.out, arguments.strategy, **how)
        lines, facts = [], {}
    network = arguments.out / "network.json"
    architecture = dataclasses.replace(space.architecture_of(candidate), default_size=arguments.size)
    files.write_json(network, architecture.to_dict())
    profile = tuner.CostModel(space, {}, shape, len(data.class_names)).profile(candidate)
    lines.append(f"{network}: {profile.macs:,} MACs, {profile.parameters:,} parameters")
    facts.update(network=network, macs=profile.macs, parameters=profile.parameters)
    if not arguments.train_epochs:
        return Outcome("\n".join(lines), facts)
    model = tuner.train_found(space, candidate, data, arguments.train_epochs, arguments.out, flip=flip)
    arguments.out, arguments.overwrite = arguments.out / "model.keras", True
    trained = _report_and_save(model, data, arguments)
    return Outcome("\n".join([*lines, trained.text]), {**facts, **trained.facts})


def demo(arguments):
    from keras_mnv4.demo import run_demo

    files.check_folder(arguments.out, "--out")
    _check_size(arguments)
    how = {"build": named.network(arguments.model), "flip": arguments.flip}
    result = run_demo(arguments.out, arguments.data, arguments.size, arguments.epochs, **how)
    text = "All checks hold." if result.ok else "Not all checks hold."
    return Outcome(text, dataclasses.asdict(result), result.ok)


def completion(arguments):
    from keras_mnv4.cli.parser import make_parser

    try:
        import shtab
    except ImportError as error:
        raise ImportError("Completions are written by shtab: pip install 'keras-mnv4[completion]'") from error
    return Outcome(shtab.complete(make_parser(), arguments.shell), {"shell": arguments.shell})


def _fine_tune(build, arguments):
    """`train --weights`."""
    from keras_mnv4 import applications
    from keras_mnv4 import training

    pretrained = _pretrained(build, arguments)
    data = _load_data(arguments, pretrained.input_shape[1])
    model = applications.replace_classifier(pretrained, len(data.class_names))
    epochs = TUNING_EPOCHS if arguments.epochs is None else arguments.epochs
    training.fine_tune(model, data, epochs, flip=_flips(arguments), backup_dir=arguments.backup)
    return _report_and_save(model, data, arguments)


def _pretrained(build, arguments):
    """The classifier that `train --weights` names: a whole model, or weights for what `build` builds."""
    from keras_mnv4.applications.checkpoints import CHECKPOINTS
    from keras_mnv4.applications.weights import classes_in

    if pathlib.Path(arguments.weights).suffix == ".keras":
        model = _load_classifier(arguments.weights)
        if (arguments.model, arguments.alpha) != (MODEL, WIDTH) or arguments.size not in (None, model.input_shape[1]):
            raise ValueError(
                f"`--weights` {arguments.weights} is a whole network: leave out `--model`, `--alpha` and `--size`."
            )
        return model
    shape = None if arguments.size is None else (arguments.size, arguments.size, 3)
    known = [each for each in CHECKPOINTS if each.tag == arguments.weights]
    classes = known[0].classes if known else classes_in(arguments.weights) or 1000
    return build(weights=arguments.weights, input_shape=shape, classes=classes, dropout_rate=0.2)


def _profile(arguments):
    """The `Profile` of what the user named: a model's file, or a network."""
    from keras_mnv4 import cost as costs
    from keras_mnv4 import qat

    shape = None if arguments.size is None else (arguments.size, arguments.size, 3)
    policy = None if arguments.policy is None else named.policy(arguments.policy)
    path = pathlib.Path(arguments.model)
    if path.is_file() and path.suffix != named.JSON:
        model = _load_model(path)
    else:
        model = named.network(arguments.model, argument="model")(weights=None, input_shape=shape)
    if policy is not None:
        model = qat.quantize_model(model, policy)
    return costs.profile(model, shape)


def _flips(arguments, is_painted=False):
    """Whether pictures are mirrored in training: those of `--data`, and painted ones, unless told otherwise.

    Digits, the default data, never are.
    """
    return arguments.flip and (arguments.data is not None or is_painted)


def _check_size(arguments):
    """Raises, before pictures are read, if a network could not be trained on pictures so small."""
    if arguments.size is not None and arguments.size < LEAST_SIZE:
        raise ValueError(f"`--size` must be {LEAST_SIZE} pixels at least. Received: {arguments.size}")


def _check_painting(arguments):
    """Raises if pictures are to be painted in some way, and there is no model to paint them from."""
    given = [name for name, usual in PAINTING_TO_SEARCH.items() if getattr(arguments, name) != usual]
    if given and arguments.teacher is None:
        options = ", ".join(f"`--{name.replace('_', '-')}`" for name in given)
        raise ValueError(
            f"Pictures are made from a model only, which `--teacher` names. Received without it: {options}"
        )


def _limits(texts):
    """Limits by measure."""
    limits = dict(map(_limit, texts))
    if len(limits) < len(texts):
        raise ValueError(f"`--limit` must be given once for each measure. Received: {', '.join(texts)}")
    return limits


def _limit(text):
    """`"macs=30e6"` as a pair."""
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise ValueError(f"`--limit` must be a measure and a number, such as macs=30e6. Received: {text}") from None


def _ratio(text):
    """`"1:1:0"` as numbers."""
    try:
        return tuple(map(float, text.split(":")))
    except ValueError:
        raise ValueError(f"`--mix` must be numbers, such as 1:1:0. Received: {text}") from None


def _load_data(arguments, size):
    from keras_mnv4 import data

    loaded = data.load_digits(size) if arguments.data is None else data.load_image_folder(arguments.data, size)
    if loaded.skipped:
        print(f"Left out {len(loaded.skipped)} unreadable files, the first: {loaded.skipped[0]}", file=sys.stderr)
    return loaded


def _new_model(build, arguments, data):
    """The network that `build` builds, untrained, for the classes of the data."""
    shape = (arguments.size, arguments.size, 3)
    return build(weights=None, input_shape=shape, classes=len(data.class_names), dropout_rate=0.2)


def _load_model(path):
    import keras

    import keras_mnv4  # noqa: F401  registers the layers

    if not pathlib.Path(path).is_file():
        raise ValueError(f"No such model file: {path}")
    return keras.models.load_model(path, compile=False)


def _load_classifier(path):
    """A model that takes square colour pictures of one size, and gives a number for each class."""
    model = _load_model(path)
    shapes = [tuple(tensor.shape[1:]) for tensor in (*(model.inputs or ()), *(model.outputs or ()))]
    ranks = [len(shape) for shape in shapes]
    if ranks != [3, 1] or shapes[0][2] != 3 or shapes[0][0] != shapes[0][1] or shapes[0][0] is None:
        raise ValueError(
            "The model must take square pictures of one size, (size, size, 3), and give (classes,). That of "
            f"{path} has {', '.join(map(str, shapes))}"
        )
    return model


def _check_classes(model, path, data):
    """Raises unless a model has the classes of the pictures, by number and, where its labels are known, by name."""
    known, names = _labels_of(path), list(data.class_names)
    count = model.output_shape[-1]
    if count != len(names) or (known is not None and known != names):
        theirs = ": " + ", ".join(known) if known else ""
        raise ValueError(
            f"{path} was trained for {count} classes{theirs}. The pictures of `--data` have {len(names)}: "
            f"{', '.join(names)}."
        )


def _for_pictures(teacher, size, shape):
    """A model for pictures of a shape; one that takes any size sees them in the size that it painted."""
    import keras

    if None not in teacher.input_shape[1:]:
        return teacher
    return keras.Sequential([keras.Input(shape), keras.layers.Resizing(size, size), teacher])


def _synthesize(arguments, teacher, path, directory):
    """The `SyntheticSet` of a model that was read from a file."""
    from keras_mnv4 import datafree

    return datafree.synthesize(
        teacher,
        arguments.pictures,
        directory,
        rounds=arguments.rounds,
        size=arguments.teacher_size,
        steps=arguments.steps,
        noise=arguments.noise,
        batch_size=arguments.batch_size,
        class_names=_labels_of(path),
        seed=arguments.seed,
    )


def _check_paths(arguments):
    """Raises, before any long work, if a model could not be saved as `--out`, or backed up in `--backup`."""
    if arguments.out.suffix != ".keras":
        raise ValueError(f"`--out` must end in .keras. Received: {arguments.out}")
    _check_file(arguments.out, arguments)
    _check_file(_labels_path(arguments.out), arguments)
    if arguments.backup is not None:
        files.check_folder(arguments.backup, "--backup")


def _check_file(path, arguments, option="--out"):
    """Raises, before any long work, if a file could not be written, and says which options help."""
    try:
        files.check_writable(path, arguments.overwrite, option)
    except FileExistsError:
        raise FileExistsError(f"'{path}' exists. `{option}` names another, `--overwrite` replaces it.") from None


def _report_and_save(model, data, arguments):
    from keras_mnv4 import training

    with files.atomic_file(_labels_path(arguments.out), arguments.overwrite) as temporary:
        temporary.write_text("\n".join(data.class_names) + "\n", encoding="utf-8")
    with files.atomic_file(arguments.out, arguments.overwrite) as temporary:
        model.save(temporary)
    top1, pictures = training.top1(model, data.test), data.test.num_pictures
    facts = {"model": arguments.out, "labels": _labels_path(arguments.out), "top1": top1, "pictures": pictures}
    return Outcome(f"{arguments.out}: test top-1 {top1:.2%} of {pictures}", facts)


def _class_names_for(target, model_path, model):
    """The class names that a file of `target` carries: a float one none if its pictures are no bytes."""
    from keras_mnv4.export.litert import takes_bytes

    names = _labels_of(model_path)
    if names is not None and target == "float" and not takes_bytes(model):
        return None
    if names is None and target == "app":
        path = _labels_path(model_path)
        raise ValueError(f"The target `app` needs class names, one a line, in {path}. `mnv4 train` writes them.")
    return names


def _labels_of(model_path):
    """The class names in the file beside a model, or None if there is none."""
    path = _labels_path(model_path)
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else None


def _labels_path(model_path):
    return pathlib.Path(model_path).with_suffix(".labels.txt")
