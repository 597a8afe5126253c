"""`python -m trimtab`: the same as the `trimtab` command."""

import sys

from trimtab.cli.main import main

sys.exit(main())
