"""Where the images and labels of files went: the account that every reader keeps.

What the files hold is counted before anything is read from it, what is taught in the
examples that come out. Everything between has to be put into the ledger with a reason:
if the two sides don't agree, reading stops.
"""

import collections

import numpy as np

# The place of what is taught: boxes, masks, or images with some of them.
TAUGHT = "taught"

# The other places, and how each is told.
PLACES = {
    "negative": "without an object",
    "unlabeled": "without labels",
    "ignored": "with nothing but ignored labels",
    "crowd": "crowds or difficult objects",
    "wrong": "invalid",
    "placeless": "without a usable box",
    "flat": "without area",
    "beyond": "outside their image",
    "doubtful": "doubtful scores",
    "low": "low scores",
    "missing": "missing files",
    "unreadable": "unreadable",
    "size": "of another shape than stated",
    "sizeless": "on images of unknown size",
    "twice": "listed twice",
    "shared": "in several files",
    "double": "duplicates",
    "labeled": "among the labeled images",
    "repeated": "repeated",
    "unlisted": "of images that aren't listed",
    "maskless": "without a usable mask",
    "unknown": "of other classes",
    "image": "on images left out",
    "empty": "without a known pixel",
    "other": "no shapes",
    "open": "not labeled yet",
    "canceled": "of canceled or further annotations",
    "part": "not in the chosen part",
    "surplus": "beyond max_boxes",
    "outside": "without area in their image",
    "link": "broken links",
    "foreign": "other files",
}

# Labels of these places are neither taught nor left out, and so are images.
_IGNORED = (
    *("ignored", "crowd", "wrong", "placeless", "flat", "beyond", "doubtful", "empty"),
)
_KEPT = (TAUGHT, "negative", "unlabeled")

# The key of an annotation for its places, if it isn't itself taught or a crowd: a
# region may stand for several objects whose place is unknown.
STANDS_FOR = "stands_for"


class Account:
    """Where things of one kind went.

    Args:
        unit: str, such as `"boxes"`.
        held: int, how many of them the files hold.
    """

    def __init__(self, unit, held=0):
        self.unit, self.held = unit, int(held)
        self.went = collections.Counter()

    def put(self, place, count=1):
        """Say where some of them went: `"taught"`, or one of `PLACES`."""
        if count:
            self.went[place] += int(count)

    def leave_out(self, place, annotations):
        """Put away annotations that were to be taught or ignored."""
        for annotation in annotations:
            self.put(place, sum(places_of(annotation).values()))

    def add(self, other):
        """Add the account of another file."""
        self.held += other.held
        self.went.update(other.went)

    def content(self):
        """Return the account as a dict for JSON."""
        parts = {"ignored": {}, "left out": {}}
        for place, text in PLACES.items():
            if self.went[place] and place not in _KEPT:
                part = "ignored" if place in _IGNORED else "left out"
                parts[part][text] = self.went[place]
        kept = {("taught" if p == TAUGHT else PLACES[p]): self.went[p]
                for p in _KEPT if self.went[p]}  # fmt: skip
        return {"held": self.held, **kept, **{k: v for k, v in parts.items() if v}}

    def __str__(self):
        return line(self.unit, self.content())


class Ledger:
    """The accounts of a source's images and labels.

    Args:
        images: int, how many images the files list or hold.
        labels: int, how many labels they hold.
        unit: str, what a label is: `"boxes"` or `"masks"`.
        classes: dict of class name to its number of labels in the files, or None where
            labels have no class.
    """

    def __init__(self, images, labels=0, unit="boxes", classes=None):
        self.images = Account("images", images)
        self.labels = Account(unit, labels)
        self.held = collections.Counter(classes or {})
        self.taught = collections.Counter()

    def add(self, other):
        """Add the ledger of another file."""
        self.images.add(other.images)
        self.labels.add(other.labels)
        self.held.update(other.held)

    def close(self, where, counts, classes=None, has_labels=True):
        """Enter what came out of reading, and check that nothing is missing.

        Args:
            where: str, the files, for the message.
            counts: int `[n, 2]`, the labels of each example: all, not ignored.
            classes: dict of class name to its number of taught labels, or None.
            has_labels: bool; False: images without a label have none to teach.

        Returns:
            The ledger.

        Raises:
            ValueError: if the sums don't agree.
        """
        counts = np.reshape(counts, (-1, 2))
        is_taught, is_empty = counts[:, 1] > 0, counts[:, 0] == 0
        self.images.put(TAUGHT, is_taught.sum())
        self.images.put("negative" if has_labels else "unlabeled", is_empty.sum())
        self.images.put("ignored", (~is_taught & ~is_empty).sum())
        self.labels.put(TAUGHT, counts[:, 1].sum())
        self.taught.update(classes or {})
        for account in (self.images, self.labels):
            _check(where, account.unit, account.held, account.went.total(), account)
        total = self.labels.went[TAUGHT]
        if classes is not None:
            _check(where, "taught of all classes", total, self.taught.total(), self)
            for name, count in self.taught.items():
                if count > self.held[name]:
                    _check(where, f"{name!r}", self.held[name], count, self)
        return self

    def reopened(self):
        """Return a copy of a closed ledger, to leave out more of what it has taught."""
        book = Ledger(self.images.held, self.labels.held, self.labels.unit, self.held)
        for account, closed in ((book.images, self.images), (book.labels, self.labels)):
            for place, count in closed.went.items():
                if place not in (*_KEPT, "ignored"):
                    account.put(place, count)
        return book

    def content(self):
        """Return the ledger as a dict for JSON."""
        content = {"images": self.images.content()}
        if self.labels.held:
            content[self.labels.unit] = self.labels.content()
        if self.held:
            content["classes"] = {
                name: {"held": self.held[name], "taught": self.taught[name]}
                for name in sorted({*self.held, *self.taught})
            }
        return content

    def without_labels(self):
        """Return the closed ledger of the same images whose labels aren't read."""
        book = self.reopened()
        book.labels, book.held = Account(self.labels.unit), collections.Counter()
        rest = book.images.held - book.images.went.total()
        return book.close("the images", np.zeros((rest, 2)), has_labels=False)

    def lines(self, taught=TAUGHT):
        """Return the ledger as text, a list of at most two lines.

        Args:
            taught: str, what is done with labels that aren't ignored.
        """
        accounts = [self.images] * (self.images.went["unlabeled"] < self.images.held)
        accounts += [self.labels] * (self.labels.held > 0)
        return [
            str(account).replace(f" {TAUGHT}", f" {taught}") for account in accounts
        ]

    def __str__(self):
        return "; ".join(self.lines())


def line(unit, content):
    """Return an account as text.

    Args:
        unit: str, such as `"boxes"`.
        content: dict, as returned by `Account.content`.
    """
    parts = []
    for name, count in content.items():
        if isinstance(count, dict):
            reasons = ", ".join(f"{k}: {v:,}" for k, v in count.items())
            parts.append(f"{sum(count.values()):,} {name} ({reasons})")
        elif name != "held":
            parts.append(f"{count:,} {name}")
    return f"{content['held']:,} {unit}: {', '.join(parts) or 'none'}"


def places_of(annotation):
    """Return where a COCO annotation's labels go, a dict of place to count."""
    if annotation.get(STANDS_FOR):
        return annotation[STANDS_FOR]
    return {"crowd" if annotation.get("iscrowd") else TAUGHT: 1}


def _check(where, what, held, found, account):
    if held != found:
        raise ValueError(
            f"Expected every label of {where} to be accounted for. Received: {held:,} "
            f"{what}, of which {found:,} were found again ({account}); a fault of the "
            "reader: please report it with the file"
        )
