"""Counts of a corpus: associations against known values, personal data by pattern, near duplicates, the datasheet."""

import numpy as np
import pytest

from trimtab.describe.associations import association, distinctive_words, shares
from trimtab.describe.near_duplicates import MinHash, near_groups, normalised
from trimtab.describe.personal_data import count_personal, iban_is_valid, luhn_is_valid


def test_shares_and_their_intervals() -> None:
    a, b = shares({"b": 81, "a": 182})
    assert (a.group, a.n) == ("a", 182)
    assert (b.low, b.high) == pytest.approx((0.2553, 0.3662), abs=6e-5)  # Newcombe 1998, table I


def test_association_of_known_tables() -> None:
    none, whole = association([[50, 50], [50, 50]]), association([[100, 0], [0, 100]])
    assert none is not None
    assert whole is not None
    assert (none.cramers_v, none.bits, none.p) == pytest.approx((0.0, 0.0, 1.0))
    assert (whole.cramers_v, whole.bits) == pytest.approx((1.0, 1.0), abs=1e-3)
    assert whole.p < 1e-30
    # 2 x 2 with chi-squared 200 * (60*60 - 40*40)^2 / 100^4 = 8; p of 8 at one degree of freedom
    middle = association([[60, 40], [40, 60]])
    assert middle is not None
    assert middle.p == pytest.approx(0.00468, abs=1e-5)
    assert middle.low < middle.cramers_v < middle.high
    assert association([[3, 4]]) is None
    assert association([[5, 0], [4, 0]]) is None


def test_words_that_stand_out_and_none_by_chance() -> None:
    random = np.random.default_rng(0)
    vocabulary = [f"word{k}" for k in range(300)]
    base = {word: int(random.integers(5, 50)) for word in vocabulary}
    noise = {group: {word: int(random.poisson(n)) for word, n in base.items()} for group in "ab"}
    assert distinctive_words(noise) == {"a": (), "b": ()}
    noise["a"]["planted"], noise["b"]["planted"] = 60, 3
    found = distinctive_words(noise)
    assert [word.word for word in found["a"]] == ["planted"]
    assert (found["a"][0].texts, found["a"][0].texts_elsewhere) == (60, 3)
    assert found["a"][0].z > 4
    assert found["b"] == ()


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to jo.do+x@mail.example.org, please", {"e-mail address": 1}),
        ("call +49 30 1234567 or (212) 555-0123", {"phone number": 2}),
        ("IBAN DE89 3704 0044 0532 0130 00 and GB82WEST12345698765432", {"IBAN": 2}),
        ("not an IBAN: DE88 3704 0044 0532 0130 00", {}),
        ("card 4111 1111 1111 1111", {"card number": 1}),
        ("no card 4111 1111 1111 1112", {}),
        ("from 192.168.0.17 and 2001:db8::8a2e:370:7334", {"IP address": 2}),
        ("version 1.2.3 of 10.5.2024, section 999.1.1.1", {}),
        ("SSN 219-09-9999", {"US social security number": 1}),
        ("SSN 000-12-3456", {}),
        ("at 10:30:45 on 2024-05-17 we paid 1 234 567 for 12:30", {}),
        ("plain words only", {}),
    ],
)
def test_personal_data_by_pattern(text: str, kinds: dict[str, int]) -> None:
    assert count_personal(text) == kinds


def test_checksums() -> None:
    assert luhn_is_valid("79927398713") is False  # too short for a card, though its checksum is right
    assert luhn_is_valid("378282246310005")
    assert not luhn_is_valid("0000000000000000")
    assert iban_is_valid("CH9300762011623852957")
    assert not iban_is_valid("CH9300762011623852958")


def test_personal_data_is_found_in_time_linear_in_the_text() -> None:
    import time

    start = time.process_time()
    for text in ("1 " * 20_000, "a" * 40_000 + "@", "+1" * 20_000, "DE12 " * 8_000, "1." * 20_000, "a:" * 20_000, "(1" * 20_000):
        count_personal(text)
    assert time.process_time() - start < 3.0


def test_near_duplicates_are_found_and_others_are_not() -> None:
    random = np.random.default_rng(1)
    words = [f"w{k}" for k in range(2000)]
    texts = [" ".join(random.choice(words, 100)) for _ in range(40)]
    changed = texts[7].split()
    changed[50] = "other"
    texts += [" ".join(changed), texts[3] + " and a few"]
    hashing = MinHash(0)
    groups = near_groups([hashing.signature(normalised(text)) for text in texts])
    assert sorted(map(sorted, groups)) == [[3, 41], [7, 40]]
    assert near_groups([]) == []


def test_the_estimate_of_likeness_is_that_of_the_shingles() -> None:
    """Broder 1997: the share of equal hashes estimates the Jaccard likeness, without bias."""
    one = [f"w{k}" for k in range(100)]
    other = [*one[:60], *(f"v{k}" for k in range(40))]
    shingles = [{tuple(text[k : k + 3]) for k in range(98)} for text in (one, other)]
    true = len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])
    estimates = []
    for seed in range(40):
        hashing = MinHash(seed)
        estimates.append((hashing.signature(" ".join(one)) == hashing.signature(" ".join(other))).mean())
    assert np.mean(estimates) == pytest.approx(true, abs=0.03)


def test_what_differs_in_case_and_signs_only_is_the_same() -> None:
    assert normalised("The  Cat, sat!") == normalised("the cat sat") == "the cat sat"
