def register_model(*names):
    return lambda cls: cls
