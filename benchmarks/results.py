"""`kept`: results that are made once, and read again where the same command goes on after a stop."""

import json

from keras_mnv4.files import write_json


def kept(path, make, *arguments, **options):
    """What is in a JSON file; made by `make` and written first if there is none."""
    if not path.exists():
        write_json(path, make(*arguments, **options))
    return json.loads(path.read_text())
