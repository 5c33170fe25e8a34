"""`search`, `two_stage_search` and `gradient_search`: from a space and pictures to networks, in one call."""

import contextlib
import json
import pathlib
import shutil

import keras
import numpy as np
from keras import ops

from keras_mnv4.backups import FINGERPRINT_PICTURES
from keras_mnv4.backups import backup_callback
from keras_mnv4.backups import epochs_in
from keras_mnv4.files import atomic_file
from keras_mnv4.files import make_folder
from keras_mnv4.files import write_json
from keras_mnv4.fitting import adamw
from keras_mnv4.plans import check_plan
from keras_mnv4.plans import fingerprint
from keras_mnv4.plans import plan_entry
from keras_mnv4.progress import resolve_verbose
from keras_mnv4.tuner.costs import CostModel
from keras_mnv4.tuner.costs import check_measures
from keras_mnv4.tuner.spaces import fine_space
from keras_mnv4.tuner.strategies import DARTS
from keras_mnv4.tuner.strategies import SPOS
from keras_mnv4.tuner.strategies import ProxylessNAS
from keras_mnv4.tuner.strategies import TuNAS
from keras_mnv4.tuner.strategies import search_batches
from keras_mnv4.tuner.strategies.strategy import labeller
from keras_mnv4.tuner.supernet import SuperNet

OBJECTIVES = ("val_accuracy", "val_loss")
GRADIENT_STRATEGIES = {"darts": DARTS, "proxylessnas": ProxylessNAS, "tunas": TuNAS}
BACKUP = "backup"  # folder of what a killed search goes on from
WARMUP_SHARE = 0.05  # of all steps
CALIBRATION_PICTURES = 1024
PROXYLESS_WARMUP = 0.25  # of the epochs: 40 of 160


def search(
    space,
    data,
    directory,
    *,
    limits=None,
    epochs=30,
    learning_rate=4e-3,
    population=50,
    generations=20,
    measures=("macs", "parameters"),
    cost_bits=None,
    augmentation=(),
    teacher=None,
    loss=None,
    uniform_in=None,
    objective="val_accuracy",
    seed=0,
    verbose="auto",
):
    """Trains a supernet by `SPOS` and searches it by `EvolutionOracle`.

    Weights learn on the training set; candidates are scored on the validation set, their normalisations' statistics
    taken from pictures of the training set. The test set is not looked at. What is done is kept: the same call in a
    new process goes on where the last one was stopped, or killed.

    Args:
        space: a `SearchSpace`.
        data: a `keras_mnv4.data.PictureData`.
        directory: folder for the supernet and the records of candidates; made if it is not there.
        limits: dictionary from measure to the most that a network may cost, as for `CostModel`.
        epochs: passes over the training set, for the supernet.
        learning_rate: its peak learning rate, of AdamW with a warm-up and a cosine.
        population: candidates of a generation.
        generations: number of generations.
        measures: further measures to note of each candidate.
        cost_bits: bits that kernels are priced at, where the space has none to choose, as `bits` of `CostModel`.
        augmentation: Keras layers that change pictures in training.
        teacher: what is asked for the labels of every batch, as it was changed, instead of those of the training set:
            a built Keras classifier of the same classes that takes bytes, or a function from pictures to probabilities.
        loss: of the networks' probabilities with the labels; None for the cross-entropy with classes, or with the
            probabilities that are the labels, or, with a teacher, for `keras_mnv4.datafree.SoftLabelLoss`.
        uniform_in: a measure, such as `"macs"`, of whose ranges all are trained alike, as for `SPOS`.
        objective: by what candidates are compared: `"val_accuracy"`, or `"val_loss"`, the cross-entropy with the labels
            of the validation set, which tells candidates apart where that is small, or nearly all of it is right.
        seed: seed of weights and candidates.
        verbose: 0 for silence; 1 for a bar an epoch, 2 for a line, and both for a line a candidate; `"auto"` for 1 on a
            terminal, else 2.

    Returns:
        A `UIBTuner` that has searched: `best_architecture()`, `results()`, `front("macs")`.

    Raises:
        ValueError: if the folder has a search of another space, of other pictures or limits, or that was trained in
            another way, the teacher does not know these classes, or the objective is none of these.

    Example:

    >>> found = search(small_space(), data, "search", limits={"macs": 10e6}, epochs=60)
    >>> network = build_network(found.best_architecture(), classes=10)
    """
    from keras_mnv4.tuner.evolution import EvolutionOracle
    from keras_mnv4.tuner.uib_tuner import UIBTuner

    if objective not in OBJECTIVES:
        raise ValueError(f"`objective` must be one of {', '.join(OBJECTIVES)}. Received: {objective!r}")
    check_measures(measures, "measures")
    directory = pathlib.Path(directory)
    shape = (data.train.size, data.train.size, 3)
    costs = CostModel(space, limits, shape, len(data.class_names), cost_bits)
    how = {"uniform_in": uniform_in, "seed": seed, "augmentation": augmentation, "teacher": teacher}
    fit = {"loss": _loss_for(data, teacher, loss), "epochs": epochs, "learning_rate": learning_rate}
    oracle = EvolutionOracle(costs, objective, population=population, generations=generations, seed=seed)
    what = {"strategy": "spos", "limits": limits or {}, "cost_bits": cost_bits, "objective": objective}
    with _taken_back_on_failure(directory):
        _check_plan(directory, space, data, **what, **how, **fit)
        supernet = _trained_supernet(costs, data, directory, how, verbose=verbose, **fit)
    tuner = UIBTuner(
        supernet, oracle, costs, measures, directory=directory, project_name="evolution", log_dir=directory / "logs"
    )
    calibration_pictures = data.train.arrays(CALIBRATION_PICTURES)[0]
    tuner.search(data.validation.arrays(), calibration_pictures, verbose=int(verbose != 0))
    return tuner


def two_stage_search(space, data, directory, weight_bits=(), **kwargs):
    """Searches twice: first a space of channels, then the kernels of the network that was found.

    Source: MobileNetV4 (arXiv 2404.10518), section 6.

    Args:
        space: the space of the first stage, such as `coarse_space()`. That of the second is `fine_space` of its best.
        data: as for `search`.
        directory: folder for both stages, `coarse` and `fine` in it.
        weight_bits: bits to choose from in the second stage, as for `SearchSpace`. The first stage, which trains in
            float, prices its networks with the most of these, so that those of the second are within the limits.
        **kwargs: others of `search`, for each stage.

    Returns:
        The `UIBTuner` of the second stage.

    Example:

    >>> found = two_stage_search(coarse_space(), data, "search", limits={"macs": 200e6})
    >>> found.best_architecture()
    """
    directory = pathlib.Path(directory)
    coarse = search(space, data, directory / "coarse", cost_bits=max(weight_bits, default=None), **kwargs)
    return search(fine_space(coarse.best_architecture(), weight_bits), data, directory / "fine", **kwargs)


def gradient_search(
    space,
    data,
    directory,
    strategy="darts",
    *,
    limits=None,
    epochs=30,
    learning_rate=4e-3,
    architecture_learning_rate=None,
    augmentation=(),
    teacher=None,
    loss=None,
    seed=0,
    verbose="auto",
    **kwargs,
):
    """Searches by gradients: a supernet and the chances of its choices are trained together, and the likeliest are it.

    Weights learn on one half of the training set, which `augmentation` changes, choices on the other, as it is; those
    of `"proxylessnas"` and `"tunas"` after a quarter of the epochs. The gradient of `"tunas"` is an estimate of that of
    its reward, REINFORCE's. The same call in a new process goes on where the last one was stopped, or killed.

    Source: DARTS (arXiv 1806.09055), ProxylessNAS (arXiv 1812.00332), TuNAS (arXiv 2008.06120).

    Args:
        space: as for `search`, and so are `data`, `epochs`, `learning_rate`, `augmentation`, `teacher`, `loss` and
            `verbose`.
        directory: folder for backups and what was found; made if it is not there.
        strategy: `"darts"`, `"proxylessnas"` or `"tunas"`.
        limits: dictionary from measure to the most that a network may cost. The first is the target of the search,
            which `"tunas"` draws nearer to from below as well; a network beyond one at the end is brought within them,
            or, where no step leads there, gives way to the space's largest, brought within them.
        architecture_learning_rate: that of the choices' logits. None for the paper's; or, in searches so short that it
            would keep all choices mixed, and of `"darts"` and `"proxylessnas"`, for a larger one, by which logits can
            move by 4 in all, at most 0.02.
        seed: of weights, choices and halves.
        **kwargs: those of `DARTS`, `ProxylessNAS` or `TuNAS`.

    Returns:
        The candidate that was found; `candidate.json` in the folder is the same.

    Raises:
        ValueError: if the strategy is none of these, no network is within the limits, or the folder has a search of
            another one, or of other things, as for `search`.

    Example:

    >>> found = gradient_search(small_space(), data, "search", "darts", limits={"macs": 10e6})
    >>> network = build_network(small_space().architecture_of(found), classes=10)
    """
    if strategy not in GRADIENT_STRATEGIES:
        raise ValueError(f"`strategy` must be one of {', '.join(GRADIENT_STRATEGIES)}. Received: {strategy!r}")
    directory = pathlib.Path(directory)
    shape = (data.train.size, data.train.size, 3)
    costs = CostModel(space, limits, shape, len(data.class_names))
    within = costs.bring_within(space.largest)  # raises before any training where no network is within the limits
    how = {"seed": seed, "augmentation": augmentation, "teacher": teacher, **kwargs}
    fit = {"loss": _loss_for(data, teacher, loss), "epochs": epochs, "learning_rate": learning_rate}
    what = {"strategy": strategy, "limits": limits or {}, "architecture_learning_rate": architecture_learning_rate}
    path = directory / "candidate.json"
    with _taken_back_on_failure(directory):
        _check_plan(directory, space, data, **what, **how, **fit)
        if path.exists():
            return json.loads(path.read_text())
        halves = _halves(data.train, seed)
        batch = min(data.train.batch_size, *(len(labels) for _, labels in halves))
        batches = search_batches(*halves, batch_size=batch, seed=seed)
        how = {**_settings(strategy, epochs * len(batches), batch, costs, limits), **how}
        keras.utils.set_random_seed(seed)
        supernet = SuperNet(space, shape, len(data.class_names))
        searching = GRADIENT_STRATEGIES[strategy](supernet, **how)
        own = searching.default_optimizer(architecture_learning_rate or searching.default_rate(epochs * len(batches)))
        _fit(searching, batches, directory, architecture_optimizer=own, verbose=verbose, **fit)
    try:
        found = costs.bring_within(searching.best_candidate())
    except ValueError:  # from there no single change leads further down
        found = within
    write_json(path, found)
    shutil.rmtree(directory / BACKUP, ignore_errors=True)
    return found


def _halves(pictures, seed):
    """A set dealt out by chance: two pairs of arrays."""
    everything = pictures.arrays()
    parts = np.array_split(np.random.default_rng(seed).permutation(pictures.num_pictures), 2)
    return [tuple(each[part] for each in everything) for part in parts]


def _settings(strategy, steps, batch_size, costs, limits):
    """The arguments of a strategy that the length of its training and the limits of its search say."""
    settings = {}
    if strategy == "proxylessnas":
        settings.update(warmup_steps=round(PROXYLESS_WARMUP * steps), form="limit")
    if strategy == "tunas":
        settings.update(total_steps=steps, batch_size=batch_size)
    if limits:
        first = next(iter(limits.items()))
        settings.update({"costs": costs}, **({"targets": dict([first])} if strategy == "tunas" else {"target": first}))
    return settings


@contextlib.contextmanager
def _taken_back_on_failure(directory):
    """Takes back a new plan of what fails before an epoch is done, so that a call without the mistake can follow."""
    plan = directory / "plan.json"
    is_new = not plan.exists()
    try:
        yield
    except Exception:
        if is_new and plan.exists() and not epochs_in(directory / BACKUP):
            plan.unlink()
        raise


def _check_plan(directory, space, data, teacher, **how):
    """Raises if the folder has a search of other things; those that only lengthen a search are not among them."""
    _check_teacher(teacher, data)
    make_folder(directory)
    plan = {
        "space": json.loads(space.to_json()),
        "size": data.train.size,
        "batch_size": data.train.batch_size,
        "class_names": list(data.class_names),
        "pictures": [
            [each.num_pictures, fingerprint(each.arrays(FINGERPRINT_PICTURES))]
            for each in (data.train, data.validation)
        ],
        "teacher": _known_again_by(teacher, data.train.size),
        **plan_entry(how),
    }
    check_plan(directory / "plan.json", plan, "a search")


def _check_teacher(teacher, data):
    """Raises, before anything is written, unless a teacher can be asked about such pictures."""
    ask, classes = labeller(teacher), len(data.class_names)
    if ask is None:
        return
    said = tuple(ask(ops.zeros((1, data.train.size, data.train.size, 3))).shape)
    if said != (1, classes):
        raise ValueError(f"`teacher` must say the probabilities of {classes} classes. Of a picture it says: {said}")


def _known_again_by(teacher, size):
    """What a plan says of a teacher: its weights; of a function, what it says of one picture."""
    if teacher is None or isinstance(teacher, keras.Model):
        return plan_entry(teacher)
    ramp = np.linspace(0, 255, size * size * 3, dtype="float32").reshape(1, size, size, 3)
    return np.round(ops.convert_to_numpy(teacher(ops.convert_to_tensor(ramp))), 3).tolist()


def _loss_for(data, teacher, loss):
    """The loss that was asked for; where none was, and labels are probabilities, that of these."""
    is_soft = loss is None and teacher is None and data.train.labels.ndim > 1
    return keras.losses.CategoricalCrossentropy() if is_soft else loss


def _trained_supernet(costs, data, directory, how, **fit):
    """The supernet of a search; `how` are arguments of `SPOS`."""
    path = directory / "supernet.keras"
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(how["seed"])
    supernet = SuperNet(costs.space, (data.train.size, data.train.size, 3), len(data.class_names))
    strategy = SPOS(supernet, costs, **how)
    _fit(strategy, data.train, directory, **fit)
    with atomic_file(path) as temporary:
        supernet.save(temporary)
    shutil.rmtree(directory / BACKUP, ignore_errors=True)
    return supernet


def _fit(strategy, batches, directory, *, loss, epochs, learning_rate, verbose, architecture_optimizer=None):
    """Trains a supernet, and goes on from the last epoch of the process before."""
    optimizer = adamw(learning_rate, epochs * len(batches), WARMUP_SHARE)
    strategy.compile(optimizer, loss=loss, metrics=["accuracy"], architecture_optimizer=architecture_optimizer)
    batches.turn_to(epochs_in(directory / BACKUP))
    strategy.fit(
        batches,
        epochs=epochs,
        shuffle=not batches.shuffle,  # which then have orders of their own
        verbose=resolve_verbose(verbose),
        callbacks=[backup_callback(directory / BACKUP, is_kept=True)],  # till what was trained is in a file
    )
