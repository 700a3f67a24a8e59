"""The vLLM engine: offline generation over a model folder, with continuous batching, prefix caching and tensor parallelism.

vLLM keeps memory and state for as long as its process lives, so this class is meant for a process of its own:
`sharding.Shards` gives it one and ends it, which is what frees the GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cft_lab.config import EngineConfig
from cft_lab.engines.base import Prompt, draw_seed
from cft_lab.engines.texts import Texts, too_long
from cft_lab.records import Completion, Sampling
from cft_lab.runtime import resolve_precision

CPU_CACHE_GIB = "1"  # key-value cache on a CPU, where models are tiny


class VllmEngine:
    """An `Engine` over a model folder in the hub's format."""

    def __init__(self, folder: Path, config: EngineConfig, *, style: str, end_of_turn: str) -> None:
        """Starts vLLM. `style` is a PromptFormat.style, `end_of_turn` the token that ends an answer; both it and the EOS do."""
        # asking for a GPU must not begin to use it: vLLM's processes of several GPUs could not be forked any more
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        _set_environment(device, config.cpu_threads)
        from vllm import LLM

        self._style, self._end_of_turn = style, end_of_turn
        self._llm: Any = LLM(
            str(folder),
            dtype="bfloat16" if resolve_precision(config.precision, device) == "bf16" else "float32",
            generation_config="vllm",  # a model's own defaults (penalties, top_k) must not leak in
            enable_prefix_caching=True,
            tensor_parallel_size=config.tensor_parallel,
            gpu_memory_utilization=config.gpu_memory_utilization,
            max_model_len=config.max_model_len,
            max_num_seqs=config.batch_size,
            enforce_eager=config.enforce_eager or device == "cpu",  # on a CPU compiling takes longer than it saves
            enable_chunked_prefill=device != "cpu",  # a CPU's generators cannot be set back after a part of a prompt (0.32)
            seed=0,  # every request has its own
            use_tqdm_on_load=False,
        )
        self._texts = Texts(folder, style, end_of_turn)

    def swap(self, folder: Path) -> None:
        """Goes on with another model of the same shape, for which `swaps` must be true."""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self._llm.reset_prefix_cache()
        self._texts = Texts(folder, self._style, self._end_of_turn)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        """See `Engine.generate`; each completion comes as soon as it is there."""
        limit = int(self._llm.model_config.max_model_len)
        engine = self._llm.llm_engine
        for index, prompt in enumerate(prompts):
            ids = self._texts.encode(prompt)
            if len(ids) >= limit:
                yield index, too_long(len(ids), limit)
                continue
            (rendered,) = self._llm.renderer.render_cmpl([{"prompt_token_ids": ids}])
            engine.add_request(str(index), rendered, self._params(prompt, sampling))
        while engine.has_unfinished_requests():
            for output in engine.step():
                yield int(output.request_id), self._texts.completion(output.outputs[0].token_ids, sampling.stop)

    def _params(self, prompt: Prompt, sampling: Sampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=draw_seed(sampling, prompt) if sampling.temperature > 0 else None,
            max_tokens=sampling.max_new_tokens,
            stop=list(sampling.stop),
            stop_token_ids=self._texts.stop_ids,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


def swaps(folder: Path) -> bool:
    """Whether vLLM can take over the folder's weights in place.

    It does not bring an output layer up to date that is tied to the embedding (seen with 0.32; the documentation of
    vllm.model_executor.model_loader.reload lists it as a limitation), so such a model needs a new process.
    """
    from transformers import AutoConfig

    return not AutoConfig.from_pretrained(folder).tie_word_embeddings


def _set_environment(device: str, cpu_threads: int) -> None:
    """What vLLM reads from the environment when it is imported. What the user has set stays."""
    settings = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked process cannot use a GPU that was touched before
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the process is already its own, and must take the GPU with it when it ends
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    if device == "cpu":
        cores = sorted(os.sched_getaffinity(0))[:cpu_threads]
        settings |= {"VLLM_CPU_KVCACHE_SPACE": CPU_CACHE_GIB, "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores))}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
