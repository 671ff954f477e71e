"""The two runtimes that bench_peers.py compares, each served by a process: `python tools/peer_runtimes.py NAME`.

Commands come on stdin and answers go to stdout, a line of JSON each. For llama.cpp any Python from 3.11 on will do that has
llama-cpp-python: of wasmrt only what needs no other package is used.
"""

import contextlib
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from wasmrt.bench import peak_rss_bytes


class Runtime(Protocol):
    """What a child process measures."""

    def load(self, file: str, threads: int, context: int, device: str, repack: bool) -> dict[str, Any]:
        """Open the model. Returns load_seconds, n_vocab and about: versions and what the code was compiled for.

        device is wasmrt's; repack is llama.cpp's: whether weights are reordered for this machine when they are loaded.
        """

    def run(self, ids: list[int], n: int) -> dict[str, Any]:
        """Prefill ids on an empty cache, decode n greedy tokens.

        Returns tokens, first_token_seconds, decode_seconds (of n - 1 steps), overhead_seconds: of decode, beside the passes.
        """


class Wasmrt:
    """wasmrt as any program would use it."""

    def load(self, file: str, threads: int, context: int, device: str, repack: bool) -> dict[str, Any]:
        import wasmrt
        from wasmrt.sync import load

        self.model = load(file, threads=threads, context=context, device=device)
        stats = self.model.stats
        about = f"wasmrt {wasmrt.__version__}, device {stats.device}, threads {stats.threads}"
        return {"load_seconds": stats.load_seconds, "n_vocab": self.model.config.n_vocab, "about": about}

    def run(self, ids: list[int], n: int) -> dict[str, Any]:
        from wasmrt.bench import repetition
        from wasmrt.sync import call

        tokens: list[int] = []
        sample = call(repetition(self.model.engine, ids, n, tokens.append))
        if sample.cached_tokens:
            raise RuntimeError(f"{sample.cached_tokens} tokens of the prompt came from the cache")
        return {
            "tokens": tokens,
            "first_token_seconds": sample.first_token_seconds,
            "decode_seconds": sample.decode_seconds,
            "overhead_seconds": sample.decode_seconds - sample.kernel_seconds,
        }


class LlamaCpp:
    """llama.cpp by its C interface, with its own defaults and its own greedy sampler: no Python per vocabulary entry."""

    n_batch = 512

    def load(self, file: str, threads: int, context: int, device: str, repack: bool) -> dict[str, Any]:
        lib = self.lib = importlib.import_module("llama_cpp")
        importlib.import_module("llama_cpp._logger").set_verbose(False)
        lib.llama_backend_init()
        started = time.perf_counter()
        options = lib.llama_model_default_params()
        options.n_gpu_layers = 0
        options.use_extra_bufts = repack
        model = lib.llama_model_load_from_file(file.encode(), options)
        if not model:
            raise RuntimeError(f"cannot load {file}")
        settings = lib.llama_context_default_params()
        settings.n_ctx = context
        settings.n_batch = settings.n_ubatch = self.n_batch
        settings.n_threads = settings.n_threads_batch = threads
        self.context = lib.llama_init_from_model(model, settings)
        if not self.context:
            raise RuntimeError(f"cannot make a context of {context} for {file}")
        load_seconds = time.perf_counter() - started
        self.sampler = lib.llama_sampler_init_greedy()
        return {
            "load_seconds": load_seconds,
            "n_vocab": lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model)),
            "about": f"llama-cpp-python {lib.__version__}, repacking {'on' if repack else 'off'}, "
            + lib.llama_print_system_info().decode().strip(" |"),
        }

    def run(self, ids: list[int], n: int) -> dict[str, Any]:
        lib = self.lib
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        started = time.perf_counter()
        for begin in range(0, len(ids), self.n_batch):
            self._decode(ids[begin : begin + self.n_batch])
        tokens = [lib.llama_sampler_sample(self.sampler, self.context, -1)]
        first = time.perf_counter()
        passes = 0.0
        for _ in range(n - 1):
            before = time.perf_counter()
            self._decode(tokens[-1:])
            passes += time.perf_counter() - before
            tokens.append(lib.llama_sampler_sample(self.sampler, self.context, -1))
        decode_seconds = time.perf_counter() - first
        return {
            "tokens": tokens,
            "first_token_seconds": first - started,
            "decode_seconds": decode_seconds,
            "overhead_seconds": decode_seconds - passes,
        }

    def _decode(self, ids: list[int]) -> None:
        lib = self.lib
        tokens = (lib.llama_token * len(ids))(*ids)  # the batch only points at it
        if code := lib.llama_decode(self.context, lib.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError(f"llama_decode returned {code}")
        lib.llama_synchronize(self.context)


def serve(runtime: Runtime) -> None:
    """Answer commands, a line of JSON each, until stdin ends. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answered = time.process_time()
    for line in sys.stdin:
        asked = time.process_time()
        command = json.loads(line)
        try:
            result = getattr(runtime, command.pop("do"))(**command)
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        result["peak_rss_bytes"] = peak_rss_bytes()
        result["cpu_seconds"] = time.process_time() - asked
        # Since the last answer: a runtime whose threads do not sleep would slow the other one down.
        result["idle_cpu_seconds"] = asked - answered
        print(json.dumps(result), file=answers, flush=True)
        answered = time.process_time()


RUNTIMES: dict[str, type[Runtime]] = {"wasmrt": Wasmrt, "llama.cpp": LlamaCpp}

if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):  # Ctrl-C reaches the children too
        serve(RUNTIMES[sys.argv[1]]())
