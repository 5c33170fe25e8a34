"""`python -m keras_mnv4.cli`."""

import sys

from keras_mnv4.cli import main

sys.exit(main())
