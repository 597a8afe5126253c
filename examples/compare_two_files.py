"""Is the second file no worse than the first, and how much faster?

    python examples/compare_two_files.py model-f16.gguf model-q8_0.gguf

The lines of `main` run as they are in a notebook cell (compare.ipynb). The shipped suite takes minutes; what is known is not done again.
"""

import sys
import time

import trimtab as tt


def main(reference_path: str, candidate_path: str, *suites: str) -> None:
    reference = tt.open(reference_path, engine="llamacpp")
    candidate = tt.open(candidate_path, engine="llamacpp")
    result = tt.compare(candidate, reference=reference, suites=suites or ["core"], seed=0)
    for gate in result.gates:
        print(gate.name, gate.delta, gate.low, gate.high, gate.margin, gate.n, gate.verdict)
    for flip in result.flips:  # result.flips.to_pandas() where pandas is installed
        print(flip["suite"], flip["item_id"], flip["direction"])
    print(result.save(time.strftime("runs/compare-%Y%m%d-%H%M%S")) / "report.html")
    assert result.passed, result.explain()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("Give two model files, the one you trust first; after them, suites or files with your own items.")
    main(*sys.argv[1:])
