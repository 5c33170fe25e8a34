"""`mnv4`: the package's functions from the command line."""

import argparse
import os
import pathlib
import signal
import sys

MODELS = {
    "conv_small": "MobileNetV4ConvSmall",
    "conv_medium": "MobileNetV4ConvMedium",
    "conv_large": "MobileNetV4ConvLarge",
    "efficientnet_lite0": "EfficientNetLite0",
    "efficientnet_lite1": "EfficientNetLite1",
    "efficientnet_lite2": "EfficientNetLite2",
}


SPACES = {"small": "small_space", "tiny": "tiny_space"}


def main(argv=None):
    """Runs one command; returns the exit status: 0 done, 1 a check or the job failed, 2 wrong arguments."""
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary files are cleared away
    try:
        return arguments.command(arguments)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"mnv4: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def train(arguments):
    from keras_mnv4 import files
    from keras_mnv4 import training

    files.check_writable(arguments.out, arguments.overwrite)
    data = _load_data(arguments, arguments.size)
    model = _new_model(arguments, data)
    training.train(model, data, arguments.epochs, flip=arguments.data is not None, backup_dir=arguments.backup)
    return _report_and_save(model, data, arguments)


def quantize(arguments):
    from keras_mnv4 import files
    from keras_mnv4 import qat
    from keras_mnv4 import training

    files.check_writable(arguments.out, arguments.overwrite)
    policy = qat.get_policy(arguments.policy)
    model = _load_model(arguments.model)
    data = _load_data(arguments, model.input_shape[1])
    flip = arguments.data is not None
    quantized = training.quantize(model, data, policy, arguments.epochs, flip=flip, backup_dir=arguments.backup)
    return _report_and_save(quantized, data, arguments)


def distill(arguments):
    from keras_mnv4 import data as sets
    from keras_mnv4 import files
    from keras_mnv4 import training

    files.check_writable(arguments.out, arguments.overwrite)
    ratio = _ratio(arguments.mix)
    teacher = _load_model(arguments.teacher)
    data = _load_data(arguments, arguments.size)
    student = _new_model(arguments, data)
    how = {"ratio": ratio, "store": arguments.store}
    if arguments.data is not None:  # crops are of larger pictures than those shown
        how["pictures"] = sets.load_image_folder(arguments.data, 2 * arguments.size).train.pictures
    if arguments.pool is not None:
        how["pool"] = [path for path in sorted(arguments.pool.rglob("*")) if path.suffix.lower() in sets.SUFFIXES]
    training.distill(student, teacher, data, arguments.epochs, **how)
    return _report_and_save(student, data, arguments)


def export(arguments):
    from keras_mnv4 import export as exporting
    from keras_mnv4 import files

    files.check_writable(arguments.out, arguments.overwrite)
    model = _load_model(arguments.model)
    samples = None
    if arguments.data is not None:
        samples = _load_data(arguments, model.input_shape[1]).test.arrays(64)[0].astype("float32")
    if arguments.target == "onnx":
        report = exporting.to_onnx(model, arguments.out, samples=samples, overwrite=arguments.overwrite)
    else:
        report = exporting.to_litert(
            model,
            arguments.out,
            arguments.target,
            samples=samples,
            labels=_read_labels(arguments.model) if arguments.target == "app" else None,
            overwrite=arguments.overwrite,
        )
    print(f"{report.path}: {report.size:,} bytes; {report.agreement}")
    return 0


def check(arguments):
    from keras_mnv4 import export as exporting

    report = exporting.check_edgetpu(arguments.file)
    print(report)
    return 0 if report.ok else 1


def cost(arguments):
    from keras_mnv4 import cost as costs
    from keras_mnv4 import files

    if arguments.model.endswith(".tflite"):
        if arguments.out or arguments.policy or arguments.size:
            raise ValueError("A .tflite file is timed: `--out`, `--policy` and `--size` are for models.")
        print(costs.measure_operators(arguments.model))
        return 0
    if arguments.out is not None:
        files.check_writable(arguments.out, arguments.overwrite)
    found = _profile(arguments)
    if arguments.out is not None:
        found.save(arguments.out, arguments.prices, arguments.overwrite)
    print(found.table(arguments.prices))
    print(
        f"{found.parameters:,} parameters, {found.weight_bytes / 1e6:.2f} MB of weights, {found.macs:,} MACs; ACE "
        f"{found.ace():.3g}, ACEv2 {found.ace_v2(arguments.prices):.3g}, of it elementwise "
        f"{found.elementwise_share(arguments.prices):.0%}; {found.energy() / 1e6:.3g} µJ at 45 nm"
    )
    for target in costs.TARGETS:
        share = costs.roofline(found, target).memory_bound_share
        print(f"on a {target}: {share:.0%} of the time waits for memory")
    return 0


def synthesize(arguments):
    made = _synthesize(arguments, arguments.model, arguments.out)
    print(f"{made.directory}: {len(made)} pictures; {made.directory / 'contact_sheet.png'}")
    return 0


def search(arguments):
    from keras_mnv4 import applications
    from keras_mnv4 import datafree
    from keras_mnv4 import files
    from keras_mnv4 import training
    from keras_mnv4 import tuner

    limits = dict(map(_limit, arguments.limit))
    bits = tuple(arguments.weight_bits)
    how = {"limits": limits, "epochs": arguments.epochs}
    if arguments.teacher is None:
        data = searched = _load_data(arguments, arguments.size)
    else:
        made = _synthesize(arguments, arguments.teacher, arguments.out / "synthetic")
        searched = made.picture_data(arguments.size, soft=True, temperature=datafree.TEMPERATURE)
        how["loss"] = datafree.SoftLabelLoss()
        data = made.picture_data(arguments.size) if arguments.data is None else _load_data(arguments, arguments.size)
    space = None if arguments.space == "two-stage" else getattr(tuner, SPACES[arguments.space])(bits)
    if arguments.strategy == "spos":
        how.update(population=arguments.population, generations=arguments.generations)
        if space is None:
            found = tuner.two_stage_search(tuner.coarse_space(), searched, arguments.out, bits, **how)
        else:
            found = tuner.search(space, searched, arguments.out, **how)
        found.save_results(arguments.out / "results.json", overwrite=True)
        space, candidate, accuracy = found.space, found.results()[0]["candidate"], found.results()[0]["accuracy"]
        print(f"{accuracy:.2%} with shared weights")
    elif space is None:
        raise ValueError("Two stages are searched with `--strategy spos`.")
    else:
        candidate = tuner.gradient_search(space, searched, arguments.out, arguments.strategy, **how)
    architecture = space.architecture_of(candidate)
    files.write_json(arguments.out / "network.json", architecture.to_dict())
    shape = (arguments.size, arguments.size, 3)
    profile = tuner.CostModel(space, {}, shape, len(data.class_names)).profile(candidate)
    print(f"{arguments.out / 'network.json'}: {profile.macs:,} MACs, {profile.parameters:,} parameters")
    if not arguments.train_epochs:
        return 0
    flip = arguments.data is not None
    model = applications.MobileNetV4(architecture, classes=len(data.class_names), input_shape=shape)
    training.train(model, data, arguments.train_epochs, flip=flip)
    policy = space.policy_of(candidate)
    if policy is not None:
        model = training.quantize(model, data, policy, flip=flip)
    arguments.out, arguments.overwrite = arguments.out / "model.keras", True
    return _report_and_save(model, data, arguments)


def demo(arguments):
    from keras_mnv4 import applications
    from keras_mnv4.demo import run_demo

    build = getattr(applications, MODELS[arguments.model])
    result = run_demo(arguments.out, arguments.data, arguments.size, arguments.epochs, build=build)
    return 0 if result.ok else 1


def _profile(arguments):
    """The `Profile` of what the user named: a file, or a constructor."""
    from keras_mnv4 import applications
    from keras_mnv4 import cost as costs
    from keras_mnv4 import qat

    if pathlib.Path(arguments.model).is_file():
        model = _load_model(arguments.model)
    else:
        name = MODELS.get(arguments.model, arguments.model)
        known = [
            each for each in applications.__all__ if each.startswith(("MobileNetV4C", "MobileNetV4H", "EfficientNet"))
        ]
        if name not in known:
            raise ValueError(
                f"No such model file, and no such network: {arguments.model}. Networks: {', '.join(known)}."
            )
        shape = None if arguments.size is None else (arguments.size, arguments.size, 3)
        model = getattr(applications, name)(weights=None, input_shape=shape)
    if arguments.policy is not None:
        model = qat.quantize_model(model, arguments.policy)
    shape = (arguments.size, arguments.size, 3) if arguments.size is not None else None
    return costs.profile(model, shape)


def _limit(text):
    """`"macs=30e6"` as a pair."""
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise ValueError(f"`--limit` must be a measure and a number, such as macs=30e6. Received: {text}") from None


def _ratio(text):
    """`"1:1:0"` as three numbers."""
    try:
        first, second, third = map(float, text.split(":"))
        return first, second, third
    except ValueError:
        raise ValueError(f"`--mix` must be parts of D1, D2 and D3, such as 1:1:0. Received: {text}") from None


def _load_data(arguments, size):
    from keras_mnv4 import data

    loaded = data.load_digits(size) if arguments.data is None else data.load_image_folder(arguments.data, size)
    if loaded.skipped:
        print(f"Left out {len(loaded.skipped)} unreadable files, the first: {loaded.skipped[0]}", file=sys.stderr)
    return loaded


def _new_model(arguments, data):
    """The network that the user named, untrained, for the classes of the data."""
    from keras_mnv4 import applications

    return getattr(applications, MODELS[arguments.model])(
        weights=None,
        input_shape=(arguments.size, arguments.size, 3),
        classes=len(data.class_names),
        alpha=arguments.alpha,
        dropout_rate=0.2,
    )


def _load_model(path):
    import keras

    import keras_mnv4  # noqa: F401  registers the layers

    if not pathlib.Path(path).is_file():
        raise ValueError(f"No such model file: {path}")
    return keras.models.load_model(path)


def _synthesize(arguments, teacher, directory):
    """The `SyntheticSet` of a model's file."""
    from keras_mnv4 import datafree

    names = _labels_path(teacher)
    return datafree.synthesize(
        _load_model(teacher),
        arguments.pictures,
        directory,
        rounds=arguments.rounds,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        class_names=names.read_text().splitlines() if names.is_file() else None,
        seed=arguments.seed,
    )


def _report_and_save(model, data, arguments):
    from keras_mnv4 import files
    from keras_mnv4 import training

    with files.atomic_file(arguments.out, arguments.overwrite) as temporary:
        model.save(temporary)
    with files.atomic_file(_labels_path(arguments.out), overwrite=True) as temporary:
        temporary.write_text("\n".join(data.class_names) + "\n")
    print(f"{arguments.out}: test top-1 {training.top1(model, data.test):.2%} of {data.test.num_pictures}")
    return 0


def _read_labels(model_path):
    path = _labels_path(model_path)
    if not path.is_file():
        raise ValueError(f"The target `app` needs class names, one a line, in {path}. `mnv4 train` writes them.")
    return path.read_text().splitlines()


def _labels_path(model_path):
    return pathlib.Path(model_path).with_suffix(".labels.txt")


def _parser():
    parser = argparse.ArgumentParser(prog="mnv4", description="MobileNetV4 for Keras 3, down to integer TFLite files.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(command, help, *, data=True, out=None, trains=False):
        added = commands.add_parser(command.__name__, help=help, description=help)
        added.set_defaults(command=command)
        if data:
            added.add_argument("--data", metavar="DIR", help="folder of images in class sub-folders (default: digits)")
        if out:
            added.add_argument("--out", metavar="FILE", type=pathlib.Path, default=pathlib.Path(out))
            added.add_argument("--overwrite", action="store_true", help="replace an existing file")
        if trains:
            added.add_argument("--backup", metavar="DIR", help="folder of backups; the same command goes on from them")
        return added

    def add_synthesis(added):
        added.add_argument("--pictures", type=int, default=500, help="how many are made from the model")
        added.add_argument("--rounds", type=int, default=10, help="how often labels are calibrated, and one")
        added.add_argument("--steps", type=int, default=2000, help="of painting each picture")
        added.add_argument("--batch-size", type=int, default=50, help="pictures painted together")
        added.add_argument("--seed", type=int, default=0, help="of what is made")

    added = add(train, "train a classifier on pictures", out="model.keras", trains=True)
    added.add_argument("--model", choices=sorted(MODELS), default="conv_small")
    added.add_argument("--alpha", type=float, default=1.0, help="width multiplier")
    added.add_argument("--size", type=int, default=64, help="height and width of the pictures, in pixels")
    added.add_argument("--epochs", type=int, default=20)

    added = add(distill, "train a classifier to give what another one gives", out="student.keras")
    added.add_argument("teacher", help="a .keras file of a classifier of the same classes")
    added.add_argument("--model", choices=sorted(MODELS), default="conv_small", help="the student")
    added.add_argument("--alpha", type=float, default=1.0, help="width multiplier of the student")
    added.add_argument("--size", type=int, default=64, help="height and width of the pictures, in pixels")
    added.add_argument("--epochs", type=int, default=20)
    added.add_argument("--mix", default="1:1:0", metavar="D1:D2:D3", help="RandAugment, Mixup and --pool, in parts")
    added.add_argument("--pool", metavar="DIR", type=pathlib.Path, help="pictures without labels, for D3")
    added.add_argument(
        "--store", metavar="DIR", help="folder for what the teacher gives, asked once; goes on from there"
    )

    added = add(quantize, "quantise a trained classifier and train it on", out="quantized.keras", trains=True)
    added.add_argument("model", help="a .keras file of `mnv4 train`")
    added.add_argument("--policy", default="w8a8")
    added.add_argument("--epochs", type=int, default=2, help="0: calibrate and round only")

    added = add(export, "write a verified TFLite or ONNX file", out="model.tflite")
    added.add_argument("model", help="a .keras file of `mnv4 quantize`, or of `mnv4 train` for float files")
    added.add_argument("--target", choices=("edgetpu", "cpu", "app", "float", "onnx"), default="edgetpu")

    added = add(check, "say whether a TFLite file would run wholly on an Edge TPU", data=False)
    added.add_argument("file")

    added = add(cost, "say what a network costs, layer by layer; or how long a TFLite file takes here", data=False)
    added.add_argument("model", help="a .keras file, the name of a network such as MobileNetV4ConvSmall, or a .tflite")
    added.add_argument("--policy", help="quantise by this policy first, such as w4a8")
    added.add_argument("--size", type=int, help="height and width of the pictures, in pixels")
    added.add_argument("--prices", default="energy45", help="price table of ACEv2: energy45, energy7 or bitwidth")
    added.add_argument("--out", metavar="FILE", type=pathlib.Path, help="write the table: .csv, .json, .html or .png")
    added.add_argument("--overwrite", action="store_true", help="replace an existing file")

    added = add(search, "find a network for pictures, within limits on its cost")
    added.add_argument("--space", choices=(*SPACES, "two-stage"), default="small")
    added.add_argument("--strategy", choices=("spos", "darts", "proxylessnas"), default="spos")
    added.add_argument("--out", metavar="DIR", type=pathlib.Path, default=pathlib.Path("search"))
    added.add_argument("--size", type=int, default=32, help="height and width of the pictures, in pixels")
    added.add_argument("--limit", action="append", default=[], metavar="MEASURE=NUMBER", help="such as macs=30e6")
    added.add_argument("--weight-bits", type=int, nargs="+", default=[], help="bits to choose for each block: 4 8")
    added.add_argument("--epochs", type=int, default=30, help="passes of training all networks together")
    added.add_argument("--population", type=int, default=50, help="networks of a generation")
    added.add_argument("--generations", type=int, default=20)
    added.add_argument("--train-epochs", type=int, default=20, help="passes of training what was found; 0 for none")
    added.add_argument("--teacher", metavar="FILE", help="a .keras file: search on pictures made from it, without data")
    add_synthesis(added)

    added = add(synthesize, "make pictures from a pretrained model alone", data=False)
    added.add_argument("model", help="a .keras file of a classifier with batch normalisations")
    added.add_argument("--out", metavar="DIR", type=pathlib.Path, default=pathlib.Path("synthetic"))
    add_synthesis(added)

    added = add(demo, "the whole job: train, quantise, export, verify")
    added.add_argument("--model", choices=sorted(MODELS), default="conv_small")
    added.add_argument("--out", metavar="DIR", default="demo", help="folder for the files made")
    added.add_argument("--size", type=int, help="height and width of the pictures, in pixels")
    added.add_argument("--epochs", type=int, default=15, help="passes of float training")
    return parser


if __name__ == "__main__":
    sys.exit(main())
