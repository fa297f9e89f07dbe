"""transformers in float32 on the same weights: what every placement is held to.

Test modules reach it through the fixtures `oracles`, `tiny_oracle`, `smollm2_oracle` and `gemma3_oracle`.
"""

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from potluck.models.decode import decode
from potluck.models.open import open_checkpoint, read_spec
from potluck.models.roles import Role


class Oracle:
    """transformers in float32 on the same weights."""

    def __init__(self, model):
        self.model = model
        self._known = {}

    def logprobs(self, tokens):
        """log-softmax after every token: (T, V)."""
        with torch.inference_mode():
            return self.model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)

    def scores(self, tokens):
        """The log-probability of every token after the first: (T - 1,).

        The head is asked for some rows at a time: all logits of a thousand tokens of Gemma are 1 GiB.
        """
        assert getattr(self.model.config, "final_logit_softcapping", None) is None
        with torch.inference_mode():
            hidden_TD = self.model.model(torch.tensor([tokens])).last_hidden_state[0, :-1]
            found = []
            for rows_BD, wanted_B in zip(hidden_TD.split(256), torch.tensor(tokens[1:]).split(256), strict=True):
                logits_BV = self.model.lm_head(rows_BD)
                found.append(logits_BV.gather(1, wanted_B.unsqueeze(1)).squeeze(1) - logits_BV.logsumexp(-1))
            return torch.cat(found)

    def choices(self, prompt, tokens):
        """The likeliest token at each place of the text after the prompt, and how far it is ahead, in nats.

        Every placement writes the same text: it is looked at once.
        """
        text = tuple(prompt), tuple(tokens)
        if text not in self._known:
            self._known[text] = self._choices(prompt, tokens)
        return self._known[text]

    def _choices(self, prompt, tokens):
        best = self.logprobs([*prompt, *tokens])[len(prompt) - 1 : -1].topk(2)
        return best.indices[:, 0].tolist(), (best.values[:, 0] - best.values[:, 1]).tolist()

    def agrees(self, prompt, tokens):
        """Whether this is the oracle's greedy text, up to the first choice between tokens closer than 0.001 nats.

        One pass over the whole text: where every token is the likeliest after those before it, the text is greedy.
        """
        for token, wanted, gap in zip(tokens, *self.choices(prompt, tokens), strict=True):
            if token != wanted:
                return gap < 0.001
        return True


def tiny(folder):
    """A tiny model, as transformers itself reads it."""
    return Oracle(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


def smollm2(path):
    """SmolLM2 in transformers, with the de-quantised weights of the GGUF file."""
    spec = read_spec(path)
    config = LlamaConfig(
        vocab_size=spec.vocab,
        hidden_size=spec.hidden,
        intermediate_size=spec.ffn,
        num_hidden_layers=len(spec.layers),
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        max_position_embeddings=spec.context,
        rms_norm_eps=spec.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": spec.layers[0].rope.base},
        tie_word_embeddings=True,
    )
    return Oracle(_filled(LlamaForCausalLM, config, path, 0.0))


def gemma3(path):
    """Gemma 3 270M in transformers, with the de-quantised weights of the GGUF file."""
    spec = read_spec(path)
    full = next(layer for layer in spec.layers if layer.window is None)
    sliding = next(layer for layer in spec.layers if layer.window is not None)
    kinds = ["full_attention" if layer.window is None else "sliding_attention" for layer in spec.layers]
    config = Gemma3TextConfig(
        vocab_size=spec.vocab,
        hidden_size=spec.hidden,
        intermediate_size=spec.ffn,
        num_hidden_layers=len(spec.layers),
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        max_position_embeddings=spec.context,
        rms_norm_eps=spec.norm_eps,
        query_pre_attn_scalar=spec.head_dim,
        sliding_window=sliding.window,
        layer_types=kinds,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": full.rope.base},
            "sliding_attention": {"rope_type": "default", "rope_theta": sliding.rope.base},
        },
        tie_word_embeddings=True,
    )
    return Oracle(_filled(Gemma3ForCausalLM, config, path, 1.0))


_NAMES = {
    Role.EMBEDDING: "model.embed_tokens.weight",
    Role.OUTPUT_NORM: "model.norm.weight",
    Role.HEAD: "lm_head.weight",
    Role.ATTENTION_NORM: "input_layernorm.weight",
    Role.Q: "self_attn.q_proj.weight",
    Role.K: "self_attn.k_proj.weight",
    Role.V: "self_attn.v_proj.weight",
    Role.O: "self_attn.o_proj.weight",
    Role.Q_NORM: "self_attn.q_norm.weight",
    Role.K_NORM: "self_attn.k_norm.weight",
    Role.GATE: "mlp.gate_proj.weight",
    Role.UP: "mlp.up_proj.weight",
    Role.DOWN: "mlp.down_proj.weight",
}


def _filled(kind, config, path, norm_offset):
    """A transformers model with a checkpoint's weights; `norm_offset` is what its norms add to theirs."""
    gemma = norm_offset > 0
    names = _NAMES | {Role.FFN_NORM: "pre_feedforward_layernorm.weight" if gemma else "post_attention_layernorm.weight"}
    names |= {
        Role.ATTENTION_POST_NORM: "post_attention_layernorm.weight",
        Role.FFN_POST_NORM: "post_feedforward_layernorm.weight",
    }
    checkpoint, state = open_checkpoint(path), {}
    for key, entry in checkpoint.entries.items():
        prefix = "" if key.layer is None else f"model.layers.{key.layer}."
        tensor = decode(entry, checkpoint.raw(key))
        state[prefix + names[key.role]] = tensor - norm_offset if "norm" in names[key.role] else tensor
    with torch.device("meta"):
        model = kind(config)
    model = model.to_empty(device="cpu")
    missing = model.load_state_dict(state, strict=False, assign=True)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) <= {"lm_head.weight"}
    model.tie_weights()
    for module in model.modules():
        _restore_buffers(module)
    return model.eval()


def _restore_buffers(module):
    """Buffers are not in a checkpoint: build such modules (ropes, scaled embedding) again."""
    if type(module).__name__.endswith("RotaryEmbedding"):
        fresh = type(module)(module.config)
        for name, buffer in fresh.named_buffers():
            setattr(module, name, buffer)
    if hasattr(module, "embed_scale") and hasattr(module, "scalar_embed_scale"):
        module.embed_scale = torch.tensor(module.scalar_embed_scale)
