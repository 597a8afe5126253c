"""llama.cpp's own HTTP server, from xllamacpp's wheel, until this process is ended: `python llamacpp_server.py MODEL.gguf PORT NAME`.

Runs in a throw-away environment; it knows nothing of trimtab.
"""

import sys
import time

import xllamacpp


def main() -> None:
    model, port, name = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {name}
    params.port = int(port)
    params.n_ctx = 8192
    params.n_parallel = 4
    server = xllamacpp.Server(params)
    print(f"listening at {server.listening_address}", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
