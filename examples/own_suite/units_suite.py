"""A suite for trimtab in a package of its own: questions about units, scored by how much likelier the right answer is than wrong ones."""

from trimtab.core.evidence import Item
from trimtab.evaluate.suites.registry import Suite

# What is asked, the unit asked for, and how many of it one is.
TEMPLATES = (
    ("A rope is {n} metres long. In centimetres, its length is", "centimetres", 100),
    ("A road is {n} kilometres long. In metres, its length is", "metres", 1000),
    ("A nail is {n} centimetres long. In millimetres, its length is", "millimetres", 10),
    ("A plank is {n} feet long. In inches, its length is", "inches", 12),
    ("A field is {n} yards wide. In feet, its width is", "feet", 3),
    ("A sack weighs {n} kilograms. In grams, its weight is", "grams", 1000),
    ("A ship carries {n} tonnes. In kilograms, its load is", "kilograms", 1000),
    ("A parcel weighs {n} pounds. In ounces, its weight is", "ounces", 16),
    ("A jug holds {n} litres. In millilitres, it holds", "millilitres", 1000),
    ("A can holds {n} gallons. In quarts, it holds", "quarts", 4),
    ("A pot holds {n} quarts. In pints, it holds", "pints", 2),
    ("A film lasts {n} hours. In minutes, it lasts", "minutes", 60),
    ("A song lasts {n} minutes. In seconds, it lasts", "seconds", 60),
    ("A storm lasted {n} days. In hours, it lasted", "hours", 24),
    ("A journey took {n} weeks. In days, it took", "days", 7),
    ("A child is {n} years old. In months, the child is", "months", 12),
    ("A tree is {n} decades old. In years, it is", "years", 10),
    ("A castle is {n} centuries old. In years, it is", "years", 100),
    ("A baker sold {n} dozen rolls. In pieces, that is", "pieces", 12),
    ("A disk holds {n} gigabytes. In megabytes, it holds", "megabytes", 1000),
)
AMOUNTS = (2, 3, 5)


def suite() -> Suite:
    """The entry point: no arguments, the same items every time, so that their digest is the same everywhere.

    Items of one template share a cluster: they are not independent, and intervals must know. The suite's name on an item is what a gate
    is about; ids must differ from those of every other suite that is used with this one.
    """
    items = tuple(
        Item(
            id=f"units-{number:02d}-{amount}",
            suite="units",
            cluster=f"units-{number:02d}",
            scorer="margin",
            prompt=wording.format(n=amount),
            options=tuple(f" {value} {unit}." for value in (amount * factor, amount * factor + amount, amount * factor * 10)),
            answer=0,
        )
        for number, (wording, unit, factor) in enumerate(TEMPLATES)
        for amount in AMOUNTS
    )
    return Suite(name="units", version="1", items=items)
