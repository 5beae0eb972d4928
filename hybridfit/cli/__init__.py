"""The command line: one module a command, help made from the options themselves."""


def main() -> None:
    """Run the command line."""
    from hybridfit.cli.app import main as run  # importing a room does nothing

    run()
