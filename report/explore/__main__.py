"""`python -m report.explore`: see `report.explore.write`."""

import tyro

from report.explore.write import main

if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
