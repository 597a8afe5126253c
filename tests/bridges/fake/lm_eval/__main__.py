import json
import sys
from types import SimpleNamespace

from lm_eval.api.registry import MODELS


def cli_evaluate():
    """`run --model NAME --model_args KEY=VALUE`: the log-probabilities of a few continuations, as lm-eval asks for them."""
    given = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    key, _, value = given["--model_args"].partition("=")
    lm = MODELS[given["--model"]](**{key: value}, batch_size=1, device=None)
    asked = [SimpleNamespace(args=("the small boat ", word)) for word in ("turned", "slowly")]
    print(json.dumps([lm.loglikelihood(asked), lm.generate_until([SimpleNamespace(args=("the", {"until": ["\n"], "max_gen_toks": 4}))])]))
    lm.close()
