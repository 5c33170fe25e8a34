"""The words that `mnv4` understands."""

import argparse
import functools
import math
import pathlib

from keras_mnv4.cli import commands
from keras_mnv4.version import __version__

FORMATTER = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)
EPILOG = """\
exit status: 0 done; 1 a check or the job failed, and a line says why; 2 wrong arguments; 130 interrupted; 143 ended

from photos, one sub-folder a class, to a file for the Edge TPU:
  mnv4 train --data photos --weights imagenet --model efficientnet_lite0 --out model.keras
  mnv4 quantize model.keras --data photos --out quantized.keras
  mnv4 export quantized.keras --data photos --out vision.tflite
  mnv4 check vision.tflite

`mnv4 COMMAND --help` has examples for each command.
"""

EXAMPLES = {
    "train": """\
  mnv4 train --out digits.keras                                   # handwritten digits, from scratch
  mnv4 train --data photos --size 96 --epochs 50
  mnv4 train --data signs --no-flip                               # left and right differ
  mnv4 train --data photos --model search/network.json            # what a search has found
  mnv4 train --data photos --model efficientnet_lite0 --weights imagenet
  mnv4 train --data photos --weights earlier.keras                # for other classes""",
    "distill": """\
  mnv4 distill teacher.keras --data photos --size 96 --epochs 50
  mnv4 distill teacher.keras --data photos --store soft_labels    # for more students
  mnv4 distill teacher.keras --data photos --mix 1:1:2 --pool unlabelled""",
    "quantize": """\
  mnv4 quantize model.keras --data photos
  mnv4 quantize model.keras --data photos --policy w4a8 --epochs 5
  mnv4 quantize model.keras --data photos --policy mine.json      # of Policy.to_json
  mnv4 quantize model.keras --data photos --epochs 0              # no training""",
    "export": """\
  mnv4 export quantized.keras --data photos --out vision.tflite
  mnv4 export quantized.keras --target app --out app.tflite --android examples/android
  mnv4 export model.keras --target onnx --out model.onnx""",
    "check": """\
  mnv4 check vision.tflite
  mnv4 --json check vision.tflite""",
    "cost": """\
  mnv4 cost MobileNetV4HybridMedium --size 256
  mnv4 cost conv_small --policy w4a8 --out cost.html
  mnv4 cost search/network.json                                   # what a search has found
  mnv4 cost vision.tflite                                         # timed on this machine""",
    "search": """\
  mnv4 search --data photos --limit macs=30e6
  mnv4 search --data photos --limit ace_v2=2e8 --weight-bits 4 8
  mnv4 search --teacher model.keras --strategy darts""",
    "synthesize": """\
  mnv4 synthesize model.keras --pictures 64 --rounds 2 --batch-size 32""",
    "demo": """\
  mnv4 demo
  mnv4 demo --data photos""",
    "completion": """\
  mnv4 completion bash > ~/.local/share/bash-completion/completions/mnv4""",
}


def make_parser():
    """The `argparse.ArgumentParser` of `mnv4`."""
    parser = argparse.ArgumentParser(
        prog="mnv4",
        description="MobileNetV4 for Keras 3, down to integer TFLite files.",
        epilog=EPILOG,
        formatter_class=FORMATTER,
    )
    parser.add_argument("--version", action="version", version=f"keras_mnv4 {__version__}")
    parser.add_argument("--json", action="store_true", help="answer in JSON; all else goes to standard error")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    add = parser.add_subparsers(required=True, metavar="command", title="commands")

    added = _add(add, commands.train, "train a classifier on pictures")
    _add_training_data(added)
    _add_out(added, "model.keras")
    _add_backup(added)
    _add_model(added)
    added.add_argument("--weights", help="start from imagenet, a checkpoint's tag, a file of weights or a .keras file")
    added.add_argument(
        "--size", type=_above_0, help="height and width in pixels (64; with --weights, the checkpoint's)"
    )
    added.add_argument(
        "--epochs", type=_from_0, help="passes over the pictures (20; with --weights 2, behind a new head)"
    )

    added = _add(add, commands.distill, "train a classifier to give what another one gives")
    added.add_argument("teacher", help="a .keras file of a classifier of the same classes")
    _add_training_data(added)
    _add_out(added, "student.keras")
    _add_backup(added)
    _add_model(added)
    added.add_argument("--size", type=_above_0, default=64, help="height and width in pixels")
    added.add_argument("--epochs", type=_above_0, default=20, help="passes over the pictures")
    added.add_argument("--mix", default="1:1:0", metavar="D1:D2:D3", help="RandAugment, Mixup and --pool, in parts")
    added.add_argument("--pool", metavar="DIR", type=pathlib.Path, help="pictures without labels, for D3")
    added.add_argument("--store", metavar="DIR", help="folder for what the teacher gives; goes on from there")

    added = _add(add, commands.quantize, "quantise a trained classifier and train it on")
    added.add_argument("model", help="a .keras file of `mnv4 train`")
    _add_training_data(added)
    _add_out(added, "quantized.keras")
    _add_backup(added)
    added.add_argument(
        "--policy", default="w8a8", help="such as w8a8, w4a8, w4a8_first_last_8, pikelpn, or a .json file"
    )
    added.add_argument(
        "--epochs", type=_from_0, default=2, help="passes over the pictures; 0: calibrate and round only"
    )

    added = _add(add, commands.export, "write a verified TFLite or ONNX file")
    added.add_argument("model", help="a .keras file of `mnv4 quantize`, or of `mnv4 train` for float files")
    _add_data(added, ", to verify the file with (default: made-up pictures)")
    _add_out(added, None, "default: model.tflite, or model.onnx")
    added.add_argument("--target", choices=("edgetpu", "cpu", "app", "float", "onnx"), default="edgetpu")
    added.add_argument("--android", metavar="DIR", help="Android project to put the file in, for --target app")

    added = _add(add, commands.check, "say whether a TFLite file runs wholly on an Edge TPU")
    added.add_argument("file", help="a .tflite file")

    added = _add(add, commands.cost, "say what a network costs; or how long a TFLite file takes here")
    added.add_argument("model", help="a .keras file, a network as --model of train has it, or a .tflite file")
    added.add_argument("--policy", help="quantise by this policy first, such as w4a8, or a .json file of one")
    added.add_argument("--size", type=_above_0, help="height and width in pixels")
    added.add_argument("--prices", help="price table of ACEv2: energy45 (default), energy7 or bitwidth")
    _add_out(added, None, "write the table: .csv, .json, .html or .png")

    added = _add(add, commands.search, "find a network for pictures, within limits on its cost")
    _add_training_data(added)
    added.add_argument("--space", choices=(*commands.SPACES, "two-stage"), default="small")
    added.add_argument("--strategy", choices=("spos", "darts", "proxylessnas", "tunas"), default="spos")
    added.add_argument("--out", metavar="DIR", type=pathlib.Path, default=pathlib.Path("search"))
    added.add_argument("--size", type=_above_0, default=32, help="height and width in pixels")
    added.add_argument("--limit", action="append", default=[], metavar="MEASURE=NUMBER", help="such as macs=30e6")
    added.add_argument("--weight-bits", type=int, nargs="+", default=[], help="bits to choose for each block: 4 8")
    added.add_argument("--epochs", type=_above_0, default=30, help="passes of training all networks together")
    added.add_argument("--population", type=_above_0, default=50, help="networks of a generation")
    added.add_argument("--generations", type=_above_0, default=20, help="of evolution, for spos")
    added.add_argument("--train-epochs", type=_from_0, default=20, help="passes of training what was found; 0 for none")
    added.add_argument(
        "--teacher",
        metavar="FILE",
        help="a .keras file: search on pictures made from it, and ask it about them, without data",
    )
    _add_synthesis(added, "--teacher-size", commands.PAINTING_TO_SEARCH)
    added.add_argument("--seed", type=int, default=0, help="of pictures, weights and candidates")

    added = _add(add, commands.synthesize, "make pictures from a pretrained model alone")
    added.add_argument("model", help="a .keras file of a classifier with batch normalisations")
    added.add_argument("--out", metavar="DIR", type=pathlib.Path, default=pathlib.Path("synthetic"))
    _add_synthesis(added, "--size", commands.PAINTING)
    added.add_argument("--seed", type=int, default=0, help="of the pictures")

    added = _add(add, commands.demo, "the whole job: train, quantise, export, verify")
    _add_training_data(added)
    _add_network(added)
    added.add_argument("--out", metavar="DIR", default="demo", help="folder for the files made")
    added.add_argument("--size", type=_above_0, help="height and width in pixels (64; with --data 96)")
    added.add_argument("--epochs", type=_above_0, default=15, help="passes of float training")

    added = _add(add, commands.completion, "print a shell's completion of these commands")
    added.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    return parser


def _add(subparsers, command, help):
    added = subparsers.add_parser(
        command.__name__,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        epilog=f"examples:\n{EXAMPLES[command.__name__]}",
        formatter_class=FORMATTER,
    )
    added.set_defaults(command=command)
    return added


def _above_0(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


def _from_0(text):
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {number}")
    return number


def _width(text):
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, not {number}")
    return number


def _add_data(added, use=" (default: digits)"):
    added.add_argument("--data", metavar="DIR", help=f"folder of images in class sub-folders{use}")


def _add_training_data(added):
    _add_data(added)
    told = "do not mirror pictures in training: for road signs, letters and the like (digits never are)"
    added.add_argument("--no-flip", dest="flip", action="store_false", help=told)


def _add_out(added, default, help=None):
    out = None if default is None else pathlib.Path(default)
    added.add_argument("--out", metavar="FILE", type=pathlib.Path, default=out, help=help or f"default: {default}")
    added.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _add_backup(added):
    added.add_argument("--backup", metavar="DIR", help="folder of backups; the same command goes on from them")


def _add_network(added):
    known = f"a network, or a .json file of one (default: {commands.MODEL}; a name that is none lists all)"
    added.add_argument("--model", metavar="NAME", default=commands.MODEL, help=known)


def _add_model(added):
    _add_network(added)
    added.add_argument("--alpha", type=_width, default=commands.WIDTH, help="width multiplier")


def _add_synthesis(added, size, usual):
    added.set_defaults(**usual)
    added.add_argument(
        size,
        dest="teacher_size",
        metavar="PIXELS",
        type=_above_0,
        help="height and width that the model is shown (its own)",
    )
    added.add_argument("--pictures", type=_above_0, help=f"how many are made from the model ({usual['pictures']})")
    rounds = f"how often each class is painted, and labels calibrated ({usual['rounds']})"
    added.add_argument("--rounds", type=_above_0, help=rounds)
    added.add_argument("--steps", type=_above_0, help=f"of painting each picture ({usual['steps']})")
    noise = f"what pictures begin as ({usual['noise']}); natural has the spectrum of photographs"
    added.add_argument("--noise", choices=("natural", "white"), help=noise)
    added.add_argument("--batch-size", type=_above_0, help="pictures painted together (250 up to 64 pixels, else 50)")
