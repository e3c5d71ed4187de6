"""Run the command line as `python -m deit_transfer`."""

from deit_transfer.cli.app import main

if __name__ == "__main__":
    main()
