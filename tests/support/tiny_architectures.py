"""Tiny models of every architecture of transformers that becomes tiny by the usual names of its sizes."""

import warnings
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from tests.support.tiny_models import HIDDEN, first_module
from tests.support.tiny_tokenizers import VOCAB, byte_level

_SIZES = {
    "hidden_size d_model dim n_embd embed_dim model_dim word_embed_proj_dim emb_dim embedding_size": HIDDEN,
    "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_decoder_layers": 2,
    "num_encoder_layers": 2,
    "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads": 4,
    "attention_heads num_local_experts num_experts n_routed_experts": 4,
    "num_key_value_heads num_experts_per_tok moe_topk top_k type_vocab_size": 2,
    "head_dim d_kv kv_channels qk_nope_head_dim qk_rope_head_dim v_head_dim": 8,
    "intermediate_size d_ff ffn_dim hidden_dim encoder_ffn_dim decoder_ffn_dim n_inner d_inner": 48,
    "ffn_hidden_size moe_intermediate_size shared_expert_intermediate_size": 48,
    "q_lora_rank kv_lora_rank": 16,
    "vocab_size": VOCAB,
    "max_position_embeddings n_positions max_source_positions n_ctx max_seq_len": 130,
    "sliding_window attention_window": 6,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
"""Values of the fields of a configuration that has them; the ids are those of `byte_level`."""

NAMES = """
afmoe albert apertus arcee aria_text beam bert bert-generation big_bird bigbird_pegasus biogpt
bitnet bloom camembert clip_text_model cohere cohere2 cohere2_moe convbert cpmant ctrl cwm
data2vec-text deberta deberta-v2 deepseek_v4 diffllama distilbert doge electra ernie ernie4_5
ernie4_5_moe esm eurobert exaone4 exaone_moe falcon_h1 falcon_mamba flaubert flex_olmo flint fnet
fsmt gemma gemma2 gemma3_text glm glm4 glm4_moe gpt-sw3 gpt2 gpt_bigcode gpt_neox gpt_neox_japanese
gpt_oss granite granite_docling_text granite_swa granitemoe granitemoe_swa granitemoeshared gte
helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax ibert imagegpt inkling2_text
inkling_text internlm3 iquestcoder jais2 jetmoe jina_embeddings_v3 kolibri1 laguna layoutlm led lfm2
llama llama4_text longformer mamba mbart megatron-bert mellum mimo_v2_flash minimax
minimax_m2 minimax_m3_vl_text ministral ministral3 mistral mixtral mobilebert modernbert
modernbert-decoder molmo2_text moshi mpnet mpt mra muse_glimmer_text muse_spark_text nanochat
nemotron nemotron_h nomic_bert nystromformer olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt
openai_privacy_filter opt persimmon phi phi3 phimoe plbart qwen2 qwen2_moe qwen3 qwen3_moe
qwen3_vl_moe_text qwen3_vl_text rembert roberta roberta-prelayernorm rwkv
seed_oss smollm3 solar_open splinter squeezebert stablelm starcoder2 tapas
tipsv2_text_model ultrabert vaultgemma visual_bert xglm xlm xlm-roberta xlm-roberta-xl yoso
""".split()
"""Values of `model_type` of the architectures that become tiny so, and take a text."""


def tiny_backbone(model_type: str) -> PreTrainedModel:
    """Make a model with random weights."""
    kind: Any = CONFIG_MAPPING[model_type]
    sizes = {name: size for names, size in _SIZES.items() for name in names.split()}
    config = kind(**{name: size for name, size in sizes.items() if hasattr(kind(), name)})
    found: Any = MODEL_MAPPING[kind]
    model: PreTrainedModel = (found[0] if isinstance(found, tuple) else found)(config)
    return model


def save(path: Path, model_type: str) -> Path:
    """Save a SentenceTransformer of the architecture to `path` and return the path."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backbone = tiny_backbone(model_type)
        first = first_module(path, backbone, byte_level(), 64)
    model = SentenceTransformer(
        modules=[first, Pooling(first.get_embedding_dimension(), "mean")], device="cpu"
    )
    model.save(str(path), create_model_card=False)
    return path
