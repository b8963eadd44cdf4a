"""Build the documentation as a site: `./run docs OUT`. A page that refers to what is not there fails it."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.cmd.build import build_main

from site_pages import reference, tree

REPOSITORY = Path(__file__).resolve().parents[2]


def main(words: list[str] | None = None) -> int:
    """Build the site; return Sphinx's exit code."""
    parser = argparse.ArgumentParser(prog="./run docs", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder of the site")
    parser.add_argument(
        "--of",
        type=Path,
        default=REPOSITORY,
        metavar="DIR",
        help="another tree with the same pages",
    )
    parser.add_argument("--links", action="store_true", help="check links to other sites, instead")
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="giveback-docs-") as scratch:
        source = Path(scratch) / "source"
        tree.stage(args.of, source)
        reference.write(source / "reference")
        (source / "index.md").write_text(tree.index(args.of, source))
        shutil.copyfile(Path(__file__).with_name("conf.py"), source / "conf.py")
        kind = "linkcheck" if args.links else "html"
        return build_main(["-q", "-W", "--keep-going", "-b", kind, str(source), str(args.out)])


if __name__ == "__main__":
    sys.exit(main())
