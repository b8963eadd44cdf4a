#!/usr/bin/env python3
"""Fuzz every parser of foreign bytes: `tools/fuzz.py --seconds 60 [--harness NAME]`.

With atheris (`pip install atheris`) coverage guides the inputs, and `--keep` adds inputs that
reached new code to the corpus. Without it the inputs are mutations of the corpus. It prints one
line for each harness: the number of inputs, and inputs per second. It exits with 1 and prints the
input if a parser raised an error that it may not raise, returned too large a result, or took too
long.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuzzing.harness import Harness

KEPT_INPUTS, KEPT_BYTES = 40, 600


def harnesses() -> dict[str, Harness]:
    """Return every harness by its name."""
    # Imported here, so that atheris can instrument them.
    from fuzzing import guests, kernel, stored, vmms  # noqa: PLC0415

    rooms = (kernel, guests, vmms, stored)
    return {one.name: one for room in rooms for one in room.HARNESSES}


def fuzz(harness: Harness, seconds: float, seed: int) -> int:
    """Run a harness on its corpus and mutations of it; return the number of inputs. Raises FoundError."""
    from fuzzing.harness import INPUT_LIMIT_BYTES  # noqa: PLC0415
    from fuzzing.mutate import mutated  # noqa: PLC0415

    chance = random.Random(seed)  # noqa: S311
    corpus = harness.corpus()
    end_s, count = time.monotonic() + seconds, 0
    for data in corpus:
        harness.try_one(data, weigh=True)
        count += 1
    while time.monotonic() < end_s:
        data = mutated(chance, corpus, harness.tokens, INPUT_LIMIT_BYTES)
        harness.try_one(data, weigh=count % 16 == 0)
        count += 1
    return count


def guide(name: str, words: Sequence[str]) -> None:
    """Run one harness under libFuzzer, with its own options. Does not return."""
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: PLC0415

    with atheris.instrument_imports(include=["giveback", "giveback_kernel", "giveback_agent"]):
        harness = harnesses()[name]

    def one(data: bytes) -> None:
        harness.try_one(data)

    atheris.Setup([sys.argv[0], *words], one)
    atheris.Fuzz()


def guided(harness: Harness, seconds: float, keep: bool) -> int:
    """Fuzz in a separate process of libFuzzer; return the number of inputs. Raises FoundError."""
    from fuzzing.harness import FoundError  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="giveback-fuzz-") as folder:
        found, tokens = Path(folder) / "found", Path(folder) / "tokens"
        found.mkdir()
        for number, data in enumerate(harness.corpus()):
            (found / str(number)).write_bytes(data)
        words = ("".join(f"\\x{byte:02x}" for byte in token) for token in harness.tokens)
        tokens.write_text("".join(f'"{word}"\n' for word in words))
        own = [sys.executable, __file__, "--guide", harness.name]
        options = ["-max_len=16384", "-rss_limit_mb=2048", "-timeout=20", "-print_final_stats=1"]
        options += [f"-artifact_prefix={Path.cwd()}/"]
        options += [f"-dict={tokens}"] if harness.tokens else []
        done = subprocess.run(
            [*own, *options, f"-max_total_time={max(1, int(seconds))}", str(found)],
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise FoundError(f"{done.stderr[-4000:]}\n{harness.name}: its input is in this folder")
        if keep:
            # libFuzzer adds to this folder only what reached code that nothing before it did.
            _keep(harness, [path.read_bytes() for path in found.iterdir()])
        counts = [
            line.split()[1] for line in done.stderr.splitlines() if "number_of_executed" in line
        ]
        return int(counts[0]) if counts else 0


def _keep(harness: Harness, found: Sequence[bytes]) -> None:
    """Keep the shortest of the inputs that reached new code."""
    from fuzzing.harness import CORPUS  # noqa: PLC0415

    small = sorted(
        {one for one in found if 0 < len(one) <= KEPT_BYTES} - set(harness.seeds), key=len
    )
    step = max(1, len(small) // KEPT_INPUTS)
    text = "".join(f"{one!r}\n" for one in small[::step][:KEPT_INPUTS])
    (CORPUS / f"{harness.name}.txt").write_text(text, encoding="ascii")


def main() -> int:
    """Fuzz all chosen harnesses for equal parts of the given seconds; return the exit code."""
    if sys.argv[1:2] == ["--guide"]:
        guide(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="in all (default: %(default)s)")
    parser.add_argument(
        "--harness", action="append", default=[], help="only this one; may be repeated"
    )
    parser.add_argument("--keep", action="store_true", help="add to the corpus; needs atheris")
    parser.add_argument(
        "--seed", type=int, default=None, help="of the mutations; at random without it"
    )
    args = parser.parse_args()
    from fuzzing.harness import FoundError  # noqa: PLC0415

    known = harnesses()
    unknown = [name for name in args.harness if name not in known]
    if unknown:
        parser.error(
            f"{', '.join(unknown)}: there is no such harness; there are: {', '.join(sorted(known))}"
        )
    chosen = args.harness or sorted(known)
    each_s, total, failed = args.seconds / len(chosen), 0, 0
    seed = random.SystemRandom().getrandbits(32) if args.seed is None else args.seed
    has_atheris = find_spec("atheris") is not None
    print(
        f"seed {seed}, {'guided by coverage' if has_atheris else 'mutations'}, {each_s:.1f} s each",
        flush=True,
    )
    for name in chosen:
        began_s = time.monotonic()
        try:
            one = known[name]
            count = guided(one, each_s, args.keep) if has_atheris else fuzz(one, each_s, seed)
        except FoundError as error:
            where = traceback.extract_tb((error.__cause__ or error).__traceback__)[-1]
            print(f"{error}\n  at {where.filename}:{where.lineno}", flush=True)
            failed += 1
            continue
        took_s = time.monotonic() - began_s
        print(f"{name:26} {count:>10,} inputs {count / took_s:>10,.0f} /s", flush=True)
        total += count
    print(f"{'in all':26} {total:>10,} inputs")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
