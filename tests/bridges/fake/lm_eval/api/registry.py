MODELS = {}


def register_model(*names):
    def registered(cls):
        MODELS.update(dict.fromkeys(names, cls))
        return cls

    return registered
