"""What a directory made for CTranslate2 holds beside the library's own files: written by a recipe, read by the engine and by `sources`."""

TEXT_FOLDER = "text"
"""What belongs to the model and not to the library: config.json of the source, tokenizer, the tokens that end a turn, the chat template."""
COMPUTE_TYPE = "trimtab_compute_type"
"""Key in the library's config.json for the number format in its words; the library reads on over it."""
