"""`plan check` on files of one's own: what is predicted, what is refused and why, and files that are none."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from trimtab.cli.plan_check import check
from trimtab.core.errors import InputError
from trimtab.flows.plan_check import plan_check

TRAIN = (
    "id,model,device,n_devices,tp,pp,dp,micro_batch,grad_accum,global_batch_seqs,seq_len,precision,act_ckpt,framework,"
    "tok_s_per_device,peak_mem_value,peak_mem_unit,kind,source"
)
SWEEP = (
    "id,silicon_data_source,backend,model_path,system,precision,mode,isl,osl,gemm_quant_mode,moe_quant_mode,batch_size,tp_size,pp_size,"
    "attention_dp_size,moe_tp_size,moe_ep_size,silicon_ttft_ms,silicon_tpot_ms"
)
STEPS = (
    "# GPUs,global batch,micro batch,hidden size,attention heads,# layers,sequence length,tensor parallelism,data parallelism,"
    "pipeline parallelism,iteration time (ms)"
)
FIGURES = "id,model,device,n_devices,tp,engine,precision,batch_or_concurrency,isl,osl,tok_s_per_user,prefill_tok_s,scenario,source"


def written(folder: Path, text: str, name: str = "rows.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def train_row(name: str, **cells: object) -> str:
    plain: dict[str, object] = {
        "id": name,
        "model": "llama-3.1-8b",
        "device": "h100-sxm",
        "n_devices": 8,
        "tp": 1,
        "pp": 1,
        "dp": 8,
        "micro_batch": 2,
        "grad_accum": 1,
        "global_batch_seqs": 16,
        "seq_len": 8192,
        "precision": "bf16",
        "act_ckpt": "selective",
        "framework": "torchtitan",
        "tok_s_per_device": 6000,
        "peak_mem_value": "",
        "peak_mem_unit": "",
        "kind": "measured",
        "source": "our cluster",
    }
    return ",".join(str((plain | cells)[column]) for column in TRAIN.split(","))


def test_each_kind_of_file_is_known_by_its_columns(tmp_path: Path) -> None:
    files = [
        written(tmp_path, f"{TRAIN}\n{train_row('a', peak_mem_value=70, peak_mem_unit='GiB')}\n", "one.csv"),
        written(
            tmp_path,
            f"{SWEEP}\nb,ours; silicon_concurrency=16,vllm,Llama-3.1-8B-Instruct,h100_sxm,bf16,agg,1024,256,,,16,1,1,1,1,1,90,9.5\n",
            "two.csv",
        ),
        written(tmp_path, f"{STEPS}\n8,32,4,2048,16,24,2048,2,2,2,900\n", "three.csv"),
        written(tmp_path, f"{FIGURES}\nd,llama-3.1-8b,RTX 4090,1,1,llama.cpp,Q4_K_M,1,512,128,120,5000,tg128,ours\n", "four.csv"),
    ]
    found = plan_check(files)
    assert found["refused"] == []
    told = {row["quantity"]: row for row in found["rows"]}
    assert set(told) >= {"tok_s_per_device", "peak_memory_bytes", "ttft_ms", "tpot_ms", "step_time_s", "decode_tok_s", "prefill_tok_s"}
    for row in found["rows"]:
        assert row["low"] < row["predicted"] < row["high"], row
        assert 1 / 4 < row["predicted"] / row["measured"] < 4, row
        assert row["basis"] in ("measured", "interpolated", "extrapolated")
        assert row["in_fit"] is False
    assert told["peak_memory_bytes"]["measured"] == 70 * 2**30
    assert found["pooled"]["n"] == len(found["rows"])
    assert set(found["sources"]) == {"pooled", *(row["source"] for row in found["rows"])}


def test_rows_that_cannot_be_predicted_are_counted_with_the_reason(tmp_path: Path) -> None:
    rows = [
        train_row("good"),
        train_row("abacus", device="abacus"),
        train_row("nonsense", tok_s_per_device="fast"),
        train_row("unheard", model="unheard-of-9b"),
        train_row("book", kind="analytic reference"),
    ]
    found = plan_check([written(tmp_path, "\n".join([TRAIN, *rows]))])
    why = {row["id"]: row["why"] for row in found["refused"]}
    assert set(why) == {"abacus", "nonsense", "unheard", "book"}
    assert "abacus" in why["abacus"]
    assert "fast" in why["nonsense"]
    assert "unheard-of-9b" in why["unheard"]
    assert "not a measured run" in why["book"]
    assert all(sentence.endswith(".") and "Traceback" not in sentence for sentence in why.values())
    assert {row["line"] for row in found["refused"]} == {3, 4, 5, 6}
    # What is no measurement is not scored at all; what is one and was refused counts against the planner.
    assert (found["n_rows"], found["n_not_measured"], found["n_rows_predicted"]) == (5, 1, 1)
    assert found["pooled"]["n"] == 4
    assert found["pooled"]["predicted_share"] == 0.25


def test_spreadsheets_write_files_in_their_own_way(tmp_path: Path) -> None:
    """A byte order mark, Windows lines, a column more, empty lines, too many and too few cells."""
    text = (
        "\ufeff" + "\r\n".join([TRAIN + ", mood ", train_row("a") + ",good", "", train_row("b") + ",bad,indeed", train_row("c")]) + "\r\n"
    )
    (tmp_path / "rows.csv").write_bytes(text.encode())
    found = plan_check([str(tmp_path / "rows.csv")])
    assert [row["id"] for row in found["rows"]] == ["a", "b", "c"]
    assert found["refused"] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        (TRAIN + "\n", "no row below"),
        ("a,b,c\n1,2,3\n", "columns of no table"),
        (TRAIN.replace("device,", "machine,", 1) + "\n", "lacks device"),
    ],
)
def test_a_file_that_is_none_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan_check([written(tmp_path, text)])


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        plan_check([str(tmp_path / "absent.csv")])
    with pytest.raises(InputError, match="cannot be read"):
        plan_check([str(tmp_path)])
    (tmp_path / "bytes.csv").write_bytes(b"id,model\xff\xfe\x00")
    with pytest.raises(InputError, match="no text in UTF-8"):
        plan_check([str(tmp_path / "bytes.csv")])


def many(n: int) -> str:
    rates = {"llama-3.1-8b": 6000, "llama-3.1-70b": 750, "gpt-neox-20b": 2400, "llama-2-7b": 7200, "llama-2-13b": 3900}
    rows = [
        train_row(f"r{i}", model=model, n_devices=64 if "70b" in model else 8, dp=64 if "70b" in model else 8,
                  global_batch_seqs=(64 if "70b" in model else 8) * (1 + i % 4), micro_batch=1 + i % 4,
                  tok_s_per_device=rate * (1 + 0.03 * (i % 4)), source=f"lab {i % 3}")
        for i in range(n)
        for model, rate in [list(rates.items())[i % 5]]
    ]  # fmt: skip
    return "\n".join([TRAIN, *rows])


@pytest.mark.parametrize("way", ["configuration", "model", "source"])
def test_leaving_out_fits_anew_and_says_so(tmp_path: Path, way: str) -> None:
    found = plan_check([written(tmp_path, many(60))], leave_out=way)
    assert found["leave_out"] == way
    assert found["n_in_fit"] == 0
    assert all(row["why"] == f"Fitted without its {way}." for row in found["rows"])
    assert found["pooled"]["median_ape_pct"] < (15 if way == "configuration" else 60)


def test_leaving_out_needs_rows(tmp_path: Path) -> None:
    found = plan_check([written(tmp_path, f"{TRAIN}\n{train_row('a')}\n")], leave_out="model")
    assert found["rows"][0]["predicted"] is None
    assert "too few" in found["rows"][0]["why"]
    with pytest.raises(InputError, match="none of configuration, model, source"):
        plan_check(["rows.csv"], leave_out="weather")


def test_the_command(tmp_path: Path) -> None:
    path = written(tmp_path, "\n".join([TRAIN, train_row("a"), train_row("b", device="abacus")]))
    shown = CliRunner().invoke(check, [path], standalone_mode=False)
    assert shown.exception is None
    for words in ("tok_s_per_device", "our cluster", "pooled", "0 are in the fit", "1 of 2 rows not predicted", "abacus"):
        assert words in " ".join(shown.output.split()), words
    told = json.loads(CliRunner().invoke(check, [path, "--json"], standalone_mode=False).output)
    assert told["schema"] == "trimtab.plan_check/1"
    assert {"predicted", "low", "high", "measured"} <= set(told["rows"][0])
    assert {"n", "predicted_share", "median_ape_pct", "mean_ape_pct", "bias_pct", "coverage"} <= set(told["sources"]["our cluster"])
