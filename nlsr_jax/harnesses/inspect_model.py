"""The class of the model provider of inspect_ai; see ``nlsr_jax.harnesses.inspect_ai``."""

import collections
import time
import zlib
from collections.abc import Sequence
from typing import Any

import anyio
import jax
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from nlsr_jax.data.encoding import encode_prompts
from nlsr_jax.data.templates import alpaca
from nlsr_jax.errors import InputError
from nlsr_jax.files.paths import exists, expand
from nlsr_jax.formats.adapter_folder import CONFIG as ADAPTER_CONFIG
from nlsr_jax.harnesses.batcher import Batcher
from nlsr_jax.harnesses.continuing import Answer, Sampling, answer_tokens
from nlsr_jax.harnesses.served import open_served
from nlsr_jax.harnesses.stopping import TokenTexts

TEMPLATES = ("auto", "alpaca", "none")
_BATCH_SIZE, _MOST_TOKENS = 16, 512
_PAUSE = 0.02
_REFUSED = (
    *("top_p", "top_k", "num_choices", "logprobs", "prompt_logprobs", "best_of", "response_schema"),
    *("frequency_penalty", "presence_penalty", "logit_bias"),
)
"""Settings of generation that would change answers and are not supported."""


class NlsrModel(ModelAPI):
    """A model of ``nlsr_jax`` for inspect_ai.

    Args:
      model_name: directory of an adapter, or directory or hub id of a model.
      base_url, api_key: not used.
      config: settings of generation.
      base: Hugging Face directory or hub id; by default the base that the adapter names.
      adapter: PEFT directory, where ``model_name`` is a model.
      tokenizer, dtype, attention, max_length: see ``open_served``.
      batch_size: requests per batch.
      template: ``auto`` for the tokenizer's chat template, or plain turns if it has none; ``alpaca``, or ``none``
        for the texts of the turns as they are.

    Raises:
      InputError: files or settings that cannot be used.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - the signature of inspect_ai
        *,
        base: str | None = None,
        adapter: str | None = None,
        tokenizer: str | None = None,
        dtype: str = "float32",
        attention: str = "plain",
        max_length: int | None = None,
        batch_size: int = _BATCH_SIZE,
        template: str = "auto",
    ):
        super().__init__(model_name, base_url, api_key, [], config)
        if template not in TEMPLATES:
            raise InputError(f"template is {template!r}; expected one of {', '.join(TEMPLATES)}")
        if exists(expand(model_name) / ADAPTER_CONFIG):
            adapter = model_name
        else:
            base = model_name
        self.served = open_served(
            base, adapter, tokenizer=tokenizer, dtype=dtype, attention=attention, max_length=max_length
        )
        self._template, self._texts = template, TokenTexts(self.served.tokenizer)
        self._asked: collections.Counter[str] = collections.Counter()
        self._batch_size = batch_size
        self._batches: Batcher[list[int], Answer] = Batcher(self._answer, size=batch_size)

    def max_connections(self) -> int:
        """Return how many requests inspect_ai makes at once: two batches."""
        return 2 * self._batch_size

    def max_tokens(self) -> int | None:
        """Return the longest answer where neither task nor command says."""
        return min(_MOST_TOKENS, self.served.max_length // 2)

    def collapse_user_messages(self) -> bool:
        """Join user turns that follow each other."""
        return True

    def close(self) -> None:
        """End the thread that answers."""
        self._batches.close()

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Answer a conversation.

        Args:
          input: its turns.
          tools, tool_choice: none; models call no tools here.
          config: ``max_tokens``, ``temperature`` (by default 0, greedy), ``stop_seqs`` and ``seed`` count.

        Raises:
          InputError: tools, or a setting that is not supported.
        """
        sampling = self._sampling(tools, config)
        prompt = self.render(input)
        (ids,) = encode_prompts([prompt], self.served.tokenizer)
        started = time.perf_counter()
        future = self._batches.submit((sampling, config.seed or 0, self._single(prompt, sampling)), ids)
        while not future.done():
            await anyio.sleep(_PAUSE)
        return self._output(future.result(), len(ids), time.perf_counter() - started)

    def _sampling(self, tools: Sequence[ToolInfo], config: GenerateConfig) -> Sampling:
        if tools:
            raise InputError(f"{self.model_name}: tools are not supported; give a task without tools")
        for name in _REFUSED:
            if getattr(config, name, None) not in (None, False):
                raise InputError(f"{self.model_name}: {name} is not supported; temperature is")
        most = config.max_tokens or self.max_tokens() or _MOST_TOKENS
        return Sampling(most, tuple(config.stop_seqs or ()), config.temperature or 0.0)

    def _single(self, prompt: str, sampling: Sampling) -> tuple[int, int] | None:
        """Return what a sampled answer's key is made of: the prompt, and how often it was asked before.

        Requests arrive in any order, so that a batch has no key that is the same in every run: sampled answers are
        made one by one. Greedy ones need no key and share batches.
        """
        if not sampling.temperature:
            return None
        self._asked[prompt] += 1
        return zlib.crc32(prompt.encode()), self._asked[prompt]

    def _answer(self, settings: Any, prompts: Sequence[list[int]]) -> list[Answer]:
        sampling, seed, single = settings
        key = None
        if single is not None:
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), single[0]), single[1])
        size = 1 if single is not None else self._batch_size
        answers = answer_tokens(self.served, self._texts, prompts, sampling, batch_size=size, key=key)
        return [answer for _, answer in sorted(answers)]

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """Return the prompt of a conversation, up to the next answer."""
        if self._template == "none":
            return "".join(message.text for message in messages)
        if self._template == "alpaca":
            return alpaca("\n\n".join(message.text for message in messages))
        if getattr(self.served.tokenizer, "chat_template", None) is None:
            return "".join(f"{message.role}: {message.text}\n" for message in messages)
        turns = [{"role": message.role, "content": message.text} for message in messages]
        return self.served.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    def _output(self, answer: Answer, asked: int, seconds: float) -> ModelOutput:
        message = ChatMessageAssistant(content=answer.text, model=self.model_name, source="generate")
        reason = "stop" if answer.ended else "max_tokens"
        return ModelOutput(
            model=self.model_name,
            choices=[ChatCompletionChoice(message=message, stop_reason=reason)],
            usage=ModelUsage(input_tokens=asked, output_tokens=answer.tokens, total_tokens=asked + answer.tokens),
            time=seconds,
        )
