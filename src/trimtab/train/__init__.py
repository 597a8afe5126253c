"""Sharded training, streaming data, distillation. What torchao says while it is imported, of kernels for other machines, is not passed on."""

import logging

for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
