"""The random numbers that CTranslate2 draws next, chosen here, so that the seed of a request decides whatever is computed beside it.

The library draws the tokens of a step from one generator a thread, row after row, and seeds it once, when the thread first draws: by itself
it repeats nothing. The generator is a `std::mt19937`, and `ctranslate2::get_random_generator` of the library's C++ interface gives the one
of the calling thread. Its next outputs are set by writing its state. A draw takes two outputs, the low half of the number first
(`std::generate_canonical` for a double). Where the library or its C++ runtime keeps other state, `why_not` says so and nothing is written.
"""

import ctypes
import threading
from collections.abc import Callable, Sequence
from functools import cache

import ctranslate2
import numpy as np

WORDS = 624
OUTPUTS_A_DRAW = 2
MOST_DRAWS = WORDS // OUTPUTS_A_DRAW
"""Draws of one step that can be chosen."""
_FUNCTION = "_ZN11ctranslate220get_random_generatorEv"
_KNOWN_SEED = 5489
_BITS = 0xFFFFFFFF
_State = ctypes.c_uint64 * (WORDS + 1)  # of libstdc++: the words, and the place of the next output


@cache
def why_not() -> str:
    """Why draws cannot be chosen with this build of the library; empty if they can. Looks at the state after a known seed."""
    if _function() is None:
        return "this build of CTranslate2 does not show its random numbers"
    found: list[bool] = []

    def look() -> None:
        state = _State.from_address(state_here())
        known = np.random.RandomState(_KNOWN_SEED).get_state(legacy=False)["state"]["key"]
        found.append(state[WORDS] == WORDS and list(state[:WORDS]) == [int(word) for word in known])

    ctranslate2.set_random_seed(_KNOWN_SEED)
    thread = threading.Thread(target=look)  # a new thread has a new generator
    thread.start()
    thread.join()
    return "" if found == [True] else "this build of CTranslate2 keeps its random numbers in another form than is known here"


def state_here() -> int:
    """Where the calling thread's generator lies; valid as long as the thread lives. Only where `why_not` is empty."""
    function = _function()
    if function is None:
        raise RuntimeError(why_not())
    return function()


def choose_draws(state: int, draws: Sequence[float]) -> None:
    """Let the next draws from a generator be these numbers, each in [0, 1) with 53 bits, as numpy gives them. At most MOST_DRAWS."""
    if len(draws) > MOST_DRAWS:
        raise ValueError(f"{len(draws)} draws are more than {MOST_DRAWS}")
    words = _State.from_address(state)
    for place, draw in enumerate(draws):
        whole = int(draw * 2.0**64)
        words[OUTPUTS_A_DRAW * place] = _word_of(whole & _BITS)
        words[OUTPUTS_A_DRAW * place + 1] = _word_of(whole >> 32)
    words[WORDS] = 0


@cache
def _function() -> Callable[[], int] | None:
    try:
        function = ctypes.CDLL(ctranslate2._ext.__file__)[_FUNCTION]
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_void_p
    function.argtypes = []
    found: Callable[[], int] = function
    return found


def _word_of(output: int) -> int:
    """The word of state from which mt19937 makes this output: its tempering (Matsumoto and Nishimura 1998) undone."""
    output ^= output >> 18
    output ^= (output << 15) & 0xEFC60000
    word = output
    for _ in range(4):
        word = output ^ ((word << 7) & 0x9D2C5680)
    output = word
    for _ in range(2):
        word = output ^ (word >> 11)
    return word & _BITS
