def get_rolling_token_windows(token_list, prefix_token, max_seq_len, context_len):
    """Windows of a text of `max_seq_len` tokens at most, each after one token of context."""
    before = prefix_token
    for begin in range(0, len(token_list), max_seq_len):
        window = token_list[begin : begin + max_seq_len]
        yield [before], window
        before = window[-1]


def make_disjoint_window(window):
    return window
