"""Skips with reasons."""

from collections.abc import Callable


def skip(reasons: dict[str, str]) -> Callable[[type], type]:
    """Class decorator: skips tests of a common suite that do not apply, each for a stated reason.

    Args:
        reasons: Test name, or the beginning of several followed by `*`, to why it does not apply.

    Raises:
        KeyError: If a name matches no test, so that entries do not outlive what they are about.
    """

    def skipped(reason: str) -> Callable:
        return lambda self, *args, **kwargs: self.skipTest(reason)

    def decorate(cls: type) -> type:
        for pattern, reason in reasons.items():
            prefix = pattern.removesuffix("*")
            names = [name for name in dir(cls) if name == pattern or (prefix != pattern and name.startswith(prefix))]
            if not names:
                raise KeyError(f"{cls.__name__} has no test {pattern}; remove the skip.")
            for name in names:
                setattr(cls, name, skipped(reason))
        return cls

    return decorate
