class TemplateLM:
    """Pairs of texts as token ids, as in lm-eval: trailing spaces of a context go to the continuation."""

    def __init__(self):
        class Hook:
            def add_partial(self, *found):
                pass

        self.cache_hook = Hook()

    def loglikelihood(self, requests, disable_tqdm=False):
        found = []
        for request in requests:
            context, continuation = request.args
            n_spaces = len(context) - len(context.rstrip())
            if n_spaces:
                context, continuation = context[:-n_spaces], context[-n_spaces:] + continuation
            ids = self.tok_encode(context)
            found.append((request.args, ids, self.tok_encode(context + continuation)[len(ids) :]))
        return self._loglikelihood_tokens(found)
