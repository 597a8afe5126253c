"""Cold starts: the slower of storage and loader, then the engine."""

import pytest

from trimtab.core.errors import InputError
from trimtab.plan import operators
from trimtab.plan.serving.cold import cold_start
from trimtab.plan.storage import loader, tier

from .shapes import DENSE, job


def test_the_slower_of_storage_and_loader_decides() -> None:
    weights = operators.weight_bytes(DENSE, "bf16")
    disk = cold_start(job(), storage="sata-ssd", loader="fastsafetensors", start_s=5)
    assert disk.total_s == pytest.approx(weights / tier("sata-ssd").read_bytes_s.value + 5)
    mapped = cold_start(job(), storage="page-cache", start_s=0)
    assert mapped.load_s == pytest.approx(weights / loader("safetensors").read_bytes_s.value)
    assert "safetensors" in mapped.why


def test_more_devices_load_faster_where_each_has_its_own_loader() -> None:
    one, four = (cold_start(job(tp=tp), storage="page-cache", loader="fastsafetensors") for tp in (1, 4))
    assert four.load_s < one.load_s / 2
    assert cold_start(job(weights="fp8")).load_s < 0.6 * cold_start(job()).load_s


@pytest.mark.parametrize(("names", "said"), [({"storage": "tape"}, "tape"), ({"loader": "cat"}, "cat"), ({"storage": "gpfs"}, "gpfs")])
def test_what_is_not_known_is_one_sentence(names, said) -> None:
    with pytest.raises(InputError, match=said):
        cold_start(job(), **names)
