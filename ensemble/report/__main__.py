"""`python -m ensemble.report`: see `ensemble.report.write`."""

import tyro

from ensemble.report.write import main

if __name__ == "__main__":
    tyro.cli(main)
