"""Progress of long loops: a bar on a terminal, otherwise a line every half minute."""

import sys

from tqdm import tqdm

_BAR_EVERY = 1.0  # seconds
_LINE_EVERY = 30.0  # seconds
_LINE = (
    "{desc}: {n_fmt} of {total_fmt} {unit}s, {rate_noinv_fmt}, "
    "{elapsed} elapsed, {remaining} left{postfix}"
)


class _Lines(tqdm):
    """A progress bar for logs: lines instead of a bar that is drawn over itself."""

    def display(self, msg=None, pos=None):
        """Print the progress as a line; none before the loop has begun."""
        if self.n > self.initial:
            print(msg or str(self), file=sys.stderr, flush=True)
        return True

    def set_postfix(self, ordered_dict=None, refresh=False, **values):
        """Set the text that the next line ends with."""
        super().set_postfix(ordered_dict, refresh=False, **values)

    def close(self):
        """Print the last line of a loop that lasted."""
        if not self.disable:
            self.disable = True
            if self.initial < self.last_print_n < self.n:
                print(str(self), file=sys.stderr, flush=True)
            self._decr_instances(self)


def bar(total, title, unit, done=0, disable=False):
    """Return a progress bar with rate and time left.

    Where stderr isn't a terminal it prints a line every 30 seconds, so that a log of
    a loop of a few seconds has none.

    Args:
        total: int or None, the loop's length; None if it isn't known.
        title: str.
        unit: str, such as `"image"`.
        done: int, what was done before.
        disable: bool, whether nothing is shown.

    Returns:
        `tqdm.tqdm`, a context manager with `update(count)` and `set_postfix(values)`.
    """
    is_terminal = _is_terminal()
    kind, every = (tqdm, _BAR_EVERY) if is_terminal else (_Lines, _LINE_EVERY)
    return kind(
        total=total,
        desc=title,
        unit=unit,
        initial=done,
        mininterval=every,
        maxinterval=every,
        # A count that is updated rarely is looked at each time.
        miniters=1,
        bar_format=None if is_terminal else _LINE,
        disable=disable,
    )


def over(items, total, title, unit):
    """Yield the items of a loop that shows its progress; arguments as in `bar`."""
    with bar(total, title, unit) as shown:
        for item in items:
            yield item
            shown.update(1)


def note(text):
    """Print a line to stderr without breaking a bar.

    Args:
        text: str.
    """
    if _is_terminal():
        tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr, flush=True)


def _is_terminal():
    return sys.stderr is not None and sys.stderr.isatty()
