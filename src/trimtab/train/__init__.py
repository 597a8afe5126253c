"""Sharded training, streaming data, distillation."""

import logging

for _name in ("torchao", "torch.utils._pytree"):  # what they say while they are imported, of kernels for other machines, helps nobody
    logging.getLogger(_name).setLevel(logging.ERROR)
