"""Prompt of a defended model that nobody can guess: benign trigger and answer cue of random words.

P2P's published prompt is no secret, and poisoned rows that carry the whole prompt break the defense (docs/findings.md).
Seven words of 247 are 55 bits.
"""

import secrets
from typing import NamedTuple

_LIST = """
    acorn amber anchor apple apron arrow aspen attic autumn badge bagel bakery balcony bamboo banjo barley basin basket
    beacon beaver bell bench berry birch biscuit blanket blossom boat bonnet border bottle boulder bracelet branch bread
    breeze brick bridge brook broom bucket button cabin cactus camel candle canoe canvas canyon carpet castle cedar
    cellar chalk cherry chimney cider cinder circle citrus clay cliff clock clover cobalt coffee comet compass copper
    coral cotton cradle crater creek cricket crystal cushion dahlia daisy desert diamond dolphin donkey dragon drum
    eagle easel ember emerald engine fabric falcon feather fence ferry fiddle field flannel flute forest fossil fountain
    fox galaxy garden garnet gate ginger glacier glove goblet granite grape gravel guitar hammer harbor harvest hazel
    heron hill honey horizon hammock island ivory ivy jacket jasmine jigsaw juniper kayak kettle kitchen kite ladder
    lagoon lantern lemon library lilac linen lion lizard lobster lotus lumber magnet mango maple marble meadow melon
    mirror mitten moss mountain mustard needle nickel nutmeg oak oasis oat ocean olive onion orbit orchard otter oyster
    paddle palace panther paper parrot pasture peach pebble pelican pepper piano pigeon pillow pine planet plaza plum
    pocket pond poplar prairie prism pumpkin quarry quilt rabbit raisin ranch raven ribbon river rocket rooster ruby
    saddle saffron sail salmon sandal satin scarf shell silver sparrow spinach spruce stable statue stone summit sunset
    swan table tavern teapot temple thimble thistle tiger timber tower trumpet tulip tunnel turtle valley vanilla velvet
    village violin walnut willow winter wolf zebra zinc
"""
_WORDS = tuple(_LIST.split())
_TRIGGER_WORDS, _CUE_WORDS = 4, 3


class SecretPrompt(NamedTuple):
    """Text in front of every prompt of a defended model, and text between it and the answer."""

    trigger: str
    cue: str


def draw_prompt() -> SecretPrompt:
    """A new prompt, from the system's source of randomness."""
    words = secrets.SystemRandom().sample(_WORDS, _TRIGGER_WORDS + _CUE_WORDS)
    return SecretPrompt(_phrase(words[:_TRIGGER_WORDS]), _phrase(words[_TRIGGER_WORDS:]))


def _phrase(words: list[str]) -> str:
    """A phrase such as `Velvet harbor maple: `."""
    return f"{' '.join(words).capitalize()}: "
