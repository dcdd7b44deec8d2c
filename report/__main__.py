"""`python -m report`: see `report.write`."""

import tyro

from report.write import main

if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
