"""The pages of `trimtab fairness` on a phone: nothing reaches over the edge, nothing is loaded."""

from pathlib import Path

import pytest
from browser import Browser, find_browser

from trimtab.flows.fairness import fairness
from trimtab.flows.fairness_data import fairness_data


@pytest.mark.slow
def test_both_pages_fit_a_phone(tmp_path: Path) -> None:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium on this machine")
    rows = "".join(f"{'a_name_without_any_space_' * 3 if k % 2 else 'M'},{k % 3},{k % 3 % 2},{k % 2},text number {k}\n" for k in range(600))
    path = tmp_path / "t.csv"
    path.write_text("sex,part,approved,repaid,text\n" + rows)
    fairness(path, decision="approved", groups=["sex", "part"], out=tmp_path / "one")
    fairness_data(path, text="text", groups=["sex", "part"], label="repaid", out=tmp_path / "two")
    with Browser(program) as page:
        for folder in ("one", "two"):
            page.show(tmp_path / folder / "report.html", 390)
            assert page.evaluate("document.documentElement.scrollWidth") == 390
            assert page.evaluate("document.querySelectorAll('script, link, img').length") == 0
