"""Results that are made once, and read again where the same command goes on after a stop."""

import json

from keras_mnv4.files import write_json


def kept(path, make, *arguments, **options):
    """What is in a JSON file; made by `make` and written first if there is none."""
    if not path.exists():
        write_json(path, make(*arguments, **options))
    return json.loads(path.read_text())


def check_settings(folder, arguments, names):
    """Notes in a folder what its results depend on; ends the command where they are of other arguments."""
    settings = {name: getattr(arguments, name) for name in names}
    found = kept(folder / "settings.json", lambda: settings)
    other = [f"{name} {found.get(name)}" for name in names if found.get(name) != settings[name]]
    if other:
        raise SystemExit(f"'{folder}' has results of {', '.join(other)}: give another --out, or the same settings.")
