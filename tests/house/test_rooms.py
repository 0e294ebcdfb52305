"""The floors and rooms of docs/house.md are those of the sources, and the checker finds what is not."""

import json

import pytest

from tests.adapter_files import flags, save_inputs
from tests.e2e.command import ROOT, python
from tests.house import counts, drawing
from tests.house import rooms as house

PAGE = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
TREE = {
    "nlsr_jax/__init__.py": "",
    "nlsr_jax/ground.py": "import os",
    "nlsr_jax/low/__init__.py": "",
    "nlsr_jax/low/one.py": "from nlsr_jax import ground",
    "nlsr_jax/low/two.py": "from nlsr_jax.low.one import *",
    "nlsr_jax/side/__init__.py": "",
    "nlsr_jax/high.py": "import nlsr_jax.low.two",
    "experiments/__init__.py": "",
    "experiments/program.py": "from nlsr_jax.high import something\nfrom experiments import __doc__",
}
FLOORS = {
    "nlsr_jax.ground": 1,
    "nlsr_jax.low": 2,
    "nlsr_jax.side": 2,
    "nlsr_jax.high": 3,
    "nlsr_jax": 3,
    "experiments": 4,
}


def problems(tmp_path, changes=(), floors=FLOORS):
    """What the checker says of the small tree with some of its files changed."""
    for name, text in {**TREE, **dict(changes)}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    rooms = [
        house.Room(floor, name, "") for name, floor in (floors.items() if isinstance(floors, dict) else floors)
    ]
    return house.problems(rooms, house.modules(tmp_path))


def test_every_import_leads_down():
    known = house.modules(ROOT)
    assert len(known) > 200
    assert house.problems(house.read_rooms(PAGE), known) == []


def test_a_house_that_stands_has_no_problems(tmp_path):
    assert problems(tmp_path) == []


@pytest.mark.parametrize(
    "statement",
    [
        "from nlsr_jax.high import x",
        "from nlsr_jax import high",
        "import nlsr_jax.high as other",
        "from .. import high",
        "from ..high import x",
        "def f():\n    from nlsr_jax.high import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nlsr_jax.high import x",
        "try:\n    import nlsr_jax.high\nexcept ImportError:\n    pass",
        "import importlib\nx = importlib.import_module('nlsr_jax.high')",
        "from nlsr_jax.ground import lazily\nx = lazily(__name__, {'nlsr_jax.high': 'name'})",
    ],
)
def test_an_import_that_leads_up_is_found(tmp_path, statement):
    (found,) = problems(tmp_path, {"nlsr_jax/side/late.py": statement})
    assert found.startswith("nlsr_jax.side.late:")
    assert found.endswith("imports nlsr_jax.high on a higher floor")


def test_an_import_from_the_room_beside_is_found(tmp_path):
    (found,) = problems(tmp_path, {"nlsr_jax/side/__init__.py": "from nlsr_jax.low import one"})
    assert found == "nlsr_jax.side:1 imports nlsr_jax.low.one on the same floor"


def test_an_import_of_what_is_not_there_is_found(tmp_path):
    (found,) = problems(tmp_path, {"nlsr_jax/high.py": "def f():\n    from nlsr_jax.low.gone import x"})
    assert found == "nlsr_jax.high:2 imports nlsr_jax.low.gone, which is not there"


def test_a_circle_inside_a_room_is_found(tmp_path):
    (found,) = problems(tmp_path, {"nlsr_jax/low/one.py": "def f():\n    from nlsr_jax.low.two import g"})
    assert found == "circle: nlsr_jax.low.one -> nlsr_jax.low.two -> nlsr_jax.low.one"


def test_rooms_that_the_page_lacks_repeats_or_invents_are_found(tmp_path):
    assert problems(tmp_path, {"nlsr_jax/new.py": ""}) == ["nlsr_jax.new stands on no floor"]
    (invented,) = problems(tmp_path, floors={**FLOORS, "nlsr_jax.new": 1, "nlsr_jax.gone": 1})
    assert invented == "nlsr_jax.gone stands on a floor, and not in the sources"
    (twice,) = problems(tmp_path, floors=[*FLOORS.items(), ("nlsr_jax.new", 1), ("nlsr_jax.new", 1)])
    assert twice == "nlsr_jax.new stands on 2 floors"


def test_a_linked_folder_holds_no_modules(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file.py").write_text("import nlsr_jax.high")
    (tmp_path / "nlsr_jax").mkdir()
    (tmp_path / "nlsr_jax" / "link").symlink_to(tmp_path / "elsewhere")
    assert problems(tmp_path) == []


def test_the_picture_is_that_of_the_table():
    drawn = drawing.draw(house.read_rooms(PAGE))
    assert drawn == (ROOT / "docs" / "house.svg").read_text(encoding="utf-8"), "make house draws it again"


def test_rooms_are_counted():
    files = [("nlsr_jax/low/__init__.py", b""), ("nlsr_jax/low/one.py", b"a\nb\n"), ("tests/x/y.py", b"a\n")]
    assert counts.count(files) == {"nlsr_jax.low": (2, 2), "tests": (1, 1)}
    assert counts.table({"tests": (1, 1)}, counts.count(files)).endswith("| **sum** | 1 | 1 | 3 | 3 |")


CALLS = """
import json, sys
wanted, found = set(sys.argv.pop(1).split()), []
names = {name.rpartition(":")[2].rpartition(".")[2] for name in wanted}

def note(frame, event, _):
    if event == "call" and frame.f_code.co_name in names:
        name = f"{frame.f_globals.get('__name__')}:{frame.f_code.co_qualname}"
        name = name.replace("__main__:", "nlsr_jax.commands.realign:")
        if name in wanted:
            wanted.remove(name)
            found.append(name)

from nlsr_jax.commands.console import main
sys.setprofile(note)
try:
    main()
finally:
    sys.setprofile(None)
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_path_of_a_realignment_is_the_one_that_is_shown(tmp_path):
    stops = [f"{module}:{function}" for module, function in house.read_stops(PAGE)]
    assert 20 < len(stops) <= 40
    files = save_inputs(tmp_path)
    given = [*flags(files, "base", "aligned", "finetuned", "weak"), "--calibration", files / "rows.jsonl"]
    given += ["--preset=published", "--output", tmp_path / "out"]
    done = python("-c", CALLS, " ".join(stops), "realign", *given)
    assert json.loads(done.stdout.splitlines()[-1]) == stops
