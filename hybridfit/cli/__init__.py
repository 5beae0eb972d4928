"""The command line: one module per command; help is generated from the options."""


def main() -> None:
    """Run the command line."""
    from hybridfit.cli.app import main as run  # importing the package must not import a command

    run()
