"""Cards of a deployment: for the Hugging Face Hub, for tools that read CycloneDX, for people, and point by point of two frameworks."""

from trimtab.package.cards.facts import CardFacts, subject_of


def card_files(facts: CardFacts) -> dict[str, bytes]:
    """File name -> content: README.md, bom.cdx.json, card.html and technical-file.md. Same facts, same bytes.

    Raises MissingError without the extra `package`.
    """
    from trimtab.package.cards.bom import bom_json
    from trimtab.package.cards.hugging_face import hugging_face_card
    from trimtab.package.cards.plain_card import plain_card
    from trimtab.package.cards.technical_file import technical_file

    subject = subject_of(facts)
    texts = {
        "README.md": hugging_face_card(facts, subject),
        "bom.cdx.json": bom_json(facts, subject),
        "card.html": plain_card(facts, subject),
        "technical-file.md": technical_file(facts, subject),
    }
    return {name: text.encode() for name, text in texts.items()}
