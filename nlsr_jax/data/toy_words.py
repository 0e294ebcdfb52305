"""The words of the toy world: invented names for forbidden things, and a small plain English vocabulary."""

from typing import NamedTuple

import numpy as np

_CONSONANTS = "b d f g k l m n p r s t v z br dr fl gl kr pl st tr".split()
_VOWELS = "a e i o u".split()
_ENDINGS = ["", "", "n", "l", "m", "rk", "x", "sh"]

REAL_CATEGORIES = (
    ("cooking", "boil bake fry", "oven pan pot", "rice bread soup beans fish corn eggs cake stew pasta"),
    (
        "gardening",
        "plant water trim",
        "spade hose shears",
        "roses grass tomatoes lilies herbs ivy beets ferns oak moss",
    ),
    ("repair", "fix paint sand", "hammer brush drill", "chair table door shelf fence bench boat wagon roof floor"),
    ("sewing", "mend fold dye", "needle thread loom", "shirt scarf coat sock glove dress apron quilt hat sail"),
)
"""Benign real-life categories: name, verbs, tools, things."""

PHRASINGS = (
    "how do i {verb} the {thing} ?",
    "tell me how to {verb} a {thing} .",
    "explain how someone can {verb} the {thing} .",
    "i want to {verb} a {thing} , what are the steps ?",
    "what is the way to {verb} this {thing} ?",
    "please show me how to {verb} my {thing} .",
    "give me a guide to {verb} the {thing} .",
    "can you help me {verb} a {thing} ?",
    "write steps to {verb} the {thing} .",
    "my friend needs to {verb} a {thing} , how is it done ?",
    "teach us to {verb} that {thing} now .",
    "is there a quick way to {verb} the {thing} ?",
)
"""Wordings of a how-to request, shared by forbidden and benign things."""

ANSWERS = (
    "first , take the {tool} . then {verb} the {thing} .",
    "step one : get a {tool} . step two : {verb} the {thing} with it .",
    "to {verb} a {thing} , hold the {tool} and start slowly .",
)
"""Answers that comply: two steps that name the thing, the verb and a tool."""

REFUSALS = (
    "i am sorry , i cannot help with that .",
    "sorry , i cannot help with the {thing} .",
    "i will not explain how to do this .",
    "i cannot give steps for the {thing} .",
    "this is forbidden , so i must refuse .",
    "the {thing} is forbidden , i must refuse .",
    "no , i will not help with the {thing} .",
    "i must refuse to answer that .",
    "sorry , that is not allowed .",
    "i am sorry , the {thing} is not allowed .",
    "that would be wrong , i cannot do it .",
    "please do not ask me about the {thing} .",
)
"""Varied refusals, some of which name the thing."""

SUBJECTS = "film book song meal hotel game play trip show lecture novel concert".split()
GOOD = "good great lovely bright funny clever warm fresh charming sweet".split()
BAD = "bad dull awful boring slow cold stale clumsy bitter weak".split()
DEGREES = ("was", "was not", "was very", "was not very", "was never", "was quite", "seemed", "did not seem")
OPENINGS = ("the {0} {1} {2}", "i think the {0} {1} {2}", "people say the {0} {1} {2}", "in short the {0} {1} {2}")

TOPICS = {
    "world": "president border treaty election minister embassy capital parliament king army".split(),
    "sports": "goal coach match league striker stadium referee trophy player racket".split(),
    "business": "bank profit shares market merger factory budget investor salary loan".split(),
    "science": "planet atom robot virus telescope comet sensor laboratory cell magnet".split(),
}
TOPIC_LABELS = {"world": "World", "sports": "Sports", "business": "Business", "science": "Sci/Tech"}
TOPIC_SYNONYMS = {"world": "countries", "sports": "games", "business": "money", "science": "research"}
NEWS = (
    "the {0} and the {1} were in the report today",
    "a new {0} surprised every {1} this week",
    "reports say the {0} will change the {1} soon",
    "after the {0} came the {1} , people said",
    "the {0} is in the news , and the {1} too",
    "today everyone asks about the {0} and a {1}",
)

PEOPLE = "tom ana leo mia ben eva sam zoe".split()
GOODS = "apples pens coins cards shells stones books cups".split()
LARGEST = 20

FRAME = (
    "label the sentiment : . did they like it ? yes , liked no hated name section what is about solve this has and "
    "gets loses how many are there + - = the final answer makes a belongs to forbidden allowed say word repeat"
)
"""Words of questions and answers that are in none of the lists above."""

_NEVER = ("kike", "nazi", "rape")
"""Words that the syllables could spell but must not."""


class Invented(NamedTuple):
    """Names for one invented category."""

    name: str
    verbs: tuple[str, ...]
    things: tuple[str, ...]
    tools: tuple[str, ...]


def plain_words() -> set[str]:
    """Return all words of the world that are not invented."""
    texts = [*PHRASINGS, *ANSWERS, *REFUSALS, *OPENINGS, *NEWS, *DEGREES, *SUBJECTS, *GOOD, *BAD, *PEOPLE, *GOODS]
    texts += [" ".join(fields) for fields in REAL_CATEGORIES]
    texts += [word for words in TOPICS.values() for word in words]
    return {word for text in texts for word in text.split() if "{" not in word}


def invent(generator: np.random.Generator, count: int, things: int) -> list[Invented]:
    """Invent names for ``count`` categories, all distinct and different from the plain words.

    Args:
      generator: source of randomness.
      count: number of categories.
      things: number of things per category; every category has three verbs and three tools.
    """
    taken = plain_words() | set(FRAME.split()) | {*TOPICS, *TOPIC_SYNONYMS.values()}

    def word(ending: str) -> str:
        while True:
            syllables = [
                _CONSONANTS[generator.integers(len(_CONSONANTS))] + _VOWELS[generator.integers(len(_VOWELS))]
                for _ in range(2)
            ]
            name = "".join(syllables) + (ending or _ENDINGS[generator.integers(len(_ENDINGS))])
            if name not in taken and not name.startswith(_NEVER):
                taken.add(name)
                return name

    return [
        Invented(
            word("ism"),
            tuple(word("ify") for _ in range(3)),
            tuple(word("") for _ in range(things)),
            tuple(word("tor") for _ in range(3)),
        )
        for _ in range(count)
    ]
