"""A process that dies before one of its operations on files."""


class Killed(BaseException):
    """What ends a process at once."""


def deadly_operations(monkeypatch, places):
    """Make operations deadly when their turn comes; nothing is cleared away behind them.

    Args:
      monkeypatch: of the test.
      places: ``(module or class, name)`` of every operation.

    Returns:
      A function that sets how many operations are left before the death; None for no death.
    """
    left = {"count": None}

    def deadly(function):
        def called(*arguments, **options):
            if left["count"] == 0:
                raise Killed
            if left["count"] is not None:
                left["count"] -= 1
            return function(*arguments, **options)

        return called

    for place, name in places:
        monkeypatch.setattr(place, name, deadly(getattr(place, name)))
    return lambda count: left.update(count=count)
