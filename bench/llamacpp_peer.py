"""llama.cpp as a peer: a process of its own, with a Python that has the package xllamacpp. JSON lines in and out.

Each line asks for completions at once: {"prompts": [[token, ...], ...], "tokens": n}; the answer has llama.cpp's own
timings of each.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import xllamacpp


def main() -> None:
    """Serve until standard input ends."""
    model, threads, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx, params.n_parallel, params.n_gpu_layers = context, 8, 0
    params.n_batch = params.n_ubatch = 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_prompt, params.warmup = False, True
    server = xllamacpp.Server(params)
    print(json.dumps({"system": xllamacpp.get_system_info()}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)

        def one(prompt: list[int], tokens: int = asked["tokens"]) -> object:
            body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
            answer = server.handle_completions(body)
            if "timings" not in answer:
                raise ValueError(f"llama.cpp answered {answer}")
            return answer["timings"]

        with ThreadPoolExecutor(len(asked["prompts"])) as pool:
            print(json.dumps(list(pool.map(one, asked["prompts"]))), flush=True)


if __name__ == "__main__":
    main()
