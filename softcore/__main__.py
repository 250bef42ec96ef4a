"""``python -m softcore demo`` and ``python -m softcore info``."""

from __future__ import annotations

import argparse

import softcore as sc


def info() -> None:
    """Print what this copy of softcore is and runs on."""
    for name, value in sc.info().items():
        text = ", ".join(value) or "none found" if isinstance(value, (list, tuple)) else value
        print(f"{name.replace('_', ' ') + ':':<15}{text}")


def demo(picture: str, table: bool = True) -> None:
    """Train, print the result, write the picture, and print the table of every op."""
    from softcore import demo

    for module, package in [("sklearn", "scikit-learn"), ("matplotlib", "matplotlib"), ("tqdm", "tqdm")]:
        demo.extra(module, package)
    trained = demo.train(progress=True)
    n = len(trained.labels)
    print(f"trained on {trained.trained_on} handwritten digits in {trained.seconds:.1f} s")
    print(f"held out: {round(trained.accuracy * n)} of {n} right, {trained.accuracy:.1%}")
    demo.draw(trained, picture)
    print(f"picture: {picture}")
    if table:
        print(flush=True)
        demo.measure(show=lambda line: print(line, flush=True))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m softcore", description=sc.__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("info", help="say the version, instruction set, threads, OpenMP runtime and devices")
    options = commands.add_parser("demo", help="learn handwritten digits, draw the result, and measure every op")
    options.add_argument("--picture", metavar="PATH", default="demo.png", help="where to write the picture (default: %(default)s)")
    options.add_argument("--no-table", action="store_true", help="do not measure the ops")
    chosen = parser.parse_args(arguments)
    if chosen.command == "info":
        info()
    else:
        demo(chosen.picture, table=not chosen.no_table)


if __name__ == "__main__":
    main()
