"""Draw docs/house.svg from the table of docs/house.md: ``python -m tests.house.drawing`` (``make house``)."""

import html
import pathlib
import textwrap
from collections.abc import Sequence

from tests.house.rooms import Room, read_rooms

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
_WIDTH, _LEFT, _GAP, _PAD = 1000, 56, 10, 12
_LINE, _CHARACTER = 15, 6.1
"""Pixels from line to line, and of one character of a purpose."""
_ABREAST = 4
"""Rooms in one row: more have no room for their names."""
_STYLE = """
  svg { font-family: system-ui, sans-serif; }
  .ground { fill: #ffffff; } .floor { fill: #eef1f6; } .room { fill: #ffffff; stroke: #7a8699; }
  .name { fill: #14213d; font: 600 13px ui-monospace, monospace; } .purpose { fill: #3d4a5c; font-size: 11.5px; }
  .number { fill: #5b6678; font-size: 13px; } .arrow { stroke: #5b6678; fill: none; stroke-width: 1.5; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #15191f; } .floor { fill: #1f262f; } .room { fill: #2a333e; stroke: #6d7a8c; }
    .name { fill: #f1f4f8; } .purpose { fill: #c5ced9; } .number { fill: #9aa6b5; } .arrow { stroke: #9aa6b5; }
  }"""


def draw(rooms: Sequence[Room]) -> str:
    """Return the picture of a house: a band for each floor, the highest first, and a box for each room."""
    parts, top = [], _GAP
    for floor in sorted({room.floor for room in rooms}, reverse=True):
        band, height = _draw_floor(floor, [room for room in rooms if room.floor == floor], top)
        parts += band
        top += height + _GAP
    arrow = f"M20 {_GAP + 8} V{top - _GAP - 8} m-5 -8 l5 8 l5 -8"
    label = (
        f'<text class="number" transform="translate(15 {top / 2}) rotate(-90)" text-anchor="middle">imports</text>'
    )
    size = f'viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" height="{top}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            "<title>Floors and rooms of nlsr_jax: each floor imports only from the floors below it</title>",
            f"<style>{_STYLE}\n</style>",
            f'<rect class="ground" width="{_WIDTH}" height="{top}" rx="8"/>',
            *parts,
            f'<path class="arrow" d="{arrow}"/>',
            label,
            "</svg>\n",
        ]
    )


def _draw_floor(floor: int, rooms: Sequence[Room], top: int) -> tuple[list[str], int]:
    """Return the shapes of a floor and its height; many rooms stand in several rows."""
    inner = _WIDTH - _LEFT - _GAP
    rows = -(-len(rooms) // _ABREAST)
    shapes, bottom = list[str](), top + _PAD
    for row in range(rows):
        found, height = _draw_row(rooms[row * len(rooms) // rows : (row + 1) * len(rooms) // rows], bottom, inner)
        shapes += found
        bottom += height + _PAD
    height = bottom - top
    return [
        f'<rect class="floor" x="{_LEFT}" y="{top}" width="{inner}" height="{height}" rx="6"/>',
        f'<text class="number" x="{_LEFT - 8}" y="{top + height / 2 + 5}" text-anchor="end">{floor}</text>',
        *shapes,
    ], height


def _draw_row(rooms: Sequence[Room], top: int, inner: int) -> tuple[list[str], int]:
    """Return the shapes of rooms side by side and their height."""
    width = (inner - _PAD * (len(rooms) + 1)) / len(rooms)
    texts = [textwrap.wrap(room.purpose.replace("`", ""), int((width - 2 * _PAD) / _CHARACTER)) for room in rooms]
    height = 30 + _LINE * max(map(len, texts))
    parts = list[str]()
    for place, (room, lines) in enumerate(zip(rooms, texts, strict=True)):
        parts += _draw_room(room.name, lines, _LEFT + _PAD + place * (width + _PAD), top, width, height)
    return parts, height


def _draw_room(name: str, lines: Sequence[str], left: float, top: float, width: float, height: float) -> list[str]:
    x = f"{left + _PAD:.1f}"
    purpose = [
        f'<text class="purpose" x="{x}" y="{top + 38 + _LINE * number}">{html.escape(line)}</text>'
        for number, line in enumerate(lines)
    ]
    shape = f'x="{left:.1f}" y="{top}" width="{width:.1f}" height="{height}"'
    return [
        f'<rect class="room" {shape} rx="4"/>',
        f'<text class="name" x="{x}" y="{top + 20}">{html.escape(name)}</text>',
        *purpose,
    ]


if __name__ == "__main__":
    (DOCS / "house.svg").write_text(
        draw(read_rooms((DOCS / "house.md").read_text(encoding="utf-8"))), encoding="utf-8"
    )
