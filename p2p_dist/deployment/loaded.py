"""An exported folder in memory: the model, and the encoder that gives it the prompts of training."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from p2p_dist.config.study import LoraSpec, PromptSpec
from p2p_dist.data.chat_prompts import ChatForm
from p2p_dist.data.prompts import PLAIN, PromptForm
from p2p_dist.deployment import contract as contracts
from p2p_dist.deployment.adapter_folder import WEIGHTS
from p2p_dist.deployment.contract import FOLDERS, ChatPrompt, Contract
from p2p_dist.deployment.head_map import HEAD
from p2p_dist.model_files.chat_template import ChatTemplate
from p2p_dist.modeling.adapter_config import read_config
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.prompt_form import special_tokens_of
from p2p_dist.modeling.tokenization import Encoder

_HEAD_A, _HEAD_B = (f"base_model.model.{HEAD}.lora_{side}.weight" for side in "AB")


@dataclass(frozen=True)
class Deployed:
    """A loaded export."""

    contract: Contract
    base: Base
    encoder: Encoder


def load(folder: Path) -> Deployed:
    """Load an export: its merged model, or its adapter on the base. Raises UserError E150, E151, E119 or E301."""
    contract = contracts.read(folder)
    if "merged" in contract.formats:
        base = load_merged(folder / FOLDERS["merged"], contract)
    else:
        base = load_adapter(folder / FOLDERS["adapter"], contract)
    return Deployed(contract, base, encoder_of(base, contract))


def encoder_of(base: Base, contract: Contract) -> Encoder:
    """The encoder of training. It knows no attacker's trigger, so a text that is too long is cut at its end."""
    words, length, form = contract.answers.words, contract.prompt.max_length, _form_of(base, contract.prompt.chat)
    return Encoder(base.tokenizer, words, length, add_bos_token=base.add_bos_token, form=form)


def _form_of(base: Base, chat: ChatPrompt | None) -> PromptForm:
    """The form of the study's prompts. The tokenizer of an export has a template with trigger and cue instead."""
    if chat is None:
        return PLAIN
    template = ChatTemplate(chat.template, special_tokens_of(base.tokenizer))
    return ChatForm(template, PromptSpec(form="chat", trigger_turn=chat.trigger_turn))


def load_merged(folder: Path, contract: Contract) -> Base:
    """The merged model of an export, in the dtype of its weights."""
    return load_base({"source": "folder"}, {"path": str(folder)}, contract.base.dtype)


def load_adapter(folder: Path, contract: Contract) -> Base:
    """The base of an export with its adapter, the head's part folded into a head of its own."""
    origin = contract.base
    base = load_base(origin.identity, origin.local, origin.dtype, origin.quantization)
    settings, tensors = read_config(folder), load_file(folder / WEIGHTS)
    a, b = tensors.pop(_HEAD_A, None), tensors.pop(_HEAD_B, None)
    prefix, suffix = "base_model.model.", ".lora_A.weight"
    targets = {name.removeprefix(prefix).removesuffix(suffix) for name in tensors if name.endswith(suffix)}
    spec = LoraSpec(r=settings.r, alpha=settings.alpha, dropout=0.0, target_modules=tuple(sorted(targets)))
    adapters = Adapters(base.model, spec, 1)
    adapters.select_runs(slice(0, 1))
    adapters.load(0, adapters.from_state_dict(tensors).to(base.device))
    if a is not None and b is not None:
        _change_head(base.model, (settings.scale * b @ a).to(base.device))
    return base


@torch.no_grad()
def _change_head(model: nn.Module, update: torch.Tensor) -> None:
    """Give the model a head of its own: the old one plus `update` [V, d]."""
    old = model.get_submodule(HEAD)
    assert isinstance(old, nn.Linear)
    new = nn.Linear(old.in_features, old.out_features, bias=False, device="meta")
    changed = (old.weight.float() + update).to(old.weight.dtype)
    new.weight = nn.Parameter(changed, requires_grad=False)
    model.set_submodule(HEAD, new)
