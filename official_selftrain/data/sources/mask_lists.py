"""Which mask belongs to which image: by the names of files, or by lists of them."""

import collections
import contextlib
import filecmp
import os
import re

from official_selftrain.data import images as pictures
from official_selftrain.data.images import ENDINGS
from official_selftrain.data.sources import coco_files

# Two columns: the name of an image ends with a known ending.
_COLUMNS = re.compile(
    rf"(.*?(?:{'|'.join(map(re.escape, ENDINGS))})[\"']?)[\s,;]+(\S.*)", re.IGNORECASE
)
# Of several masks of one name, one without loss.
_MASK_ENDINGS = (".png", *(e for e in ENDINGS if e not in (".png", ".jpg", ".jpeg")))
_MASK_ENDINGS += (".jpg", ".jpeg")
# Whether an image shows a class, in VOC's lists of a class.
_FLAG = re.compile(r"-?[01]")


class Lists:
    """Finds what lists name in the folders of images and masks.

    Args:
        folder: str, the folder of images.
        place: str, the folder of masks, or None.
    """

    def __init__(self, folder, place):
        self._folder, self._place = folder, place
        check_folder(folder)
        # Masks may lie in the folder of images.
        is_inner = place and os.path.abspath(place) != os.path.abspath(folder)
        names = _files(folder, ENDINGS, place if is_inner else None)
        self._stems = _by_stem(names, ENDINGS)
        self._names = coco_files.FileNames(folder)
        self._mask_names = None if place is None else coco_files.FileNames(place)

    def pairs(self):
        """Match all masks with the images of their names.

        Returns:
            `(pairs, images, masks, several)`: list of (image, mask); the images without
            a mask; the masks without an image; a line for each image or mask of whose
            name there are several files.
        """
        names = _by_stem(_files(self._place, _MASK_ENDINGS), _MASK_ENDINGS)
        pairs, alone, several = {}, [], []
        for stem, (mask, *others) in names.items():
            path = os.path.join(self._place, mask)
            images = [
                name
                for name in self._stems.get(stem, [])
                if not os.path.samefile(os.path.join(self._folder, name), path)
            ]
            if not images:
                alone.append(mask)
                continue
            image = self._chosen(images, mask)
            pairs[stem] = image, mask
            others = [name for name in others if name not in images]
            for one, names_of_one in ((image, images), (mask, [mask, *others])):
                if len(names_of_one) > 1:
                    several.append(_told(one, names_of_one))
        unpaired = [
            files[0] for stem, files in self._stems.items() if stem not in pairs
        ]
        return list(pairs.values()), unpaired, alone, several

    def entries(self, lines, list_path):
        """Match the images and masks of a list.

        Args:
            lines: list of str, the list.
            list_path: str, for messages.

        Returns:
            `(entries, notes)`: list of (index of the line, image, mask), an image once;
            list of str.

        Raises:
            FileNotFoundError: for a missing image.
            ValueError: for an image with two masks.
        """
        masks_of, entries, missing, twice, chosen = {}, [], [], [], []
        for index, line in enumerate(lines):
            images, mask = self._pair(line)
            if not images:
                missing.append(last_part(list(_readings(line))[-1][0]))
                continue
            image = self._chosen(images, mask)
            if image in masks_of:
                twice.append(image)
                if masks_of[image] != mask:
                    raise ValueError(
                        f"Expected one mask for {image}. Received: {list_path} with "
                        f"{masks_of[image]} and {mask}"
                    )
                continue
            masks_of[image] = mask
            entries.append((index, image, mask))
            if len(images) > 1:
                chosen.append(_told(image, images))
        if missing:
            raise FileNotFoundError(
                f"Expected every image of {list_path} in {self._folder}. Received: "
                f"{len(missing)} of {len(lines)} missing, first {missing[0]!r}"
            )
        notes = []
        if twice:
            notes.append(
                f"images that are listed twice, read once: {len(twice)} (first: "
                f"{twice[0]})"
            )
        if chosen:
            notes.append(
                f"several image files of one name: {len(chosen)}, the first of "
                f"{', '.join(ENDINGS)} of its mask's size is read (first: {chosen[0]})"
            )
        return entries, notes

    def unlisted(self, list_path):
        """Return the masks that no list in the folder of a list names, sorted."""
        folder, named = os.path.dirname(list_path) or os.curdir, set()
        for name in sum(stems_of(folder, (".txt",)).values(), []):
            with contextlib.suppress(ValueError):  # some other text
                lines = lines_of(os.path.join(folder, name))
                named.update(self._pair(line)[1] for line in lines)
        return sorted(set(_files(self._place, _MASK_ENDINGS)) - named)

    def _pair(self, line):
        """Return the files of a line's image, the first to prefer, and its mask."""
        for name, mask in _readings(line):
            images = self._images(name)
            if images and (mask is None or self._place is None):
                return images, os.path.splitext(images[0])[0] + ".png"
            if images:
                found = self._mask_names.find(_unquoted(mask))
                return images, os.path.normpath(found)
        return [], None

    def _images(self, name):
        name = _unquoted(name)
        found = self._names.find(name)
        if found.lower().endswith(ENDINGS) and self._names.has(found):
            return [os.path.normpath(found)]
        for path in (os.path.normpath(found), last_part(name)):
            stem, ending = os.path.splitext(path)
            stem = stem if ending.lower() in ENDINGS else path
            if stem in self._stems:
                return self._stems[stem]
        return []

    def _chosen(self, images, mask):
        """Return the image of a mask, of several files of one name."""
        path = None if self._place is None else os.path.join(self._place, mask)
        if len(images) == 1 or path is None or not os.path.isfile(path):
            return images[0]
        header = pictures.header(path)
        size = header and header.size
        for name in images:
            file = os.path.join(self._folder, name)
            header = pictures.header(file)
            is_mask = filecmp.cmp(file, path, shallow=False)
            if header and size in (header.size, header.stored_size) and not is_mask:
                return name
        return images[0]


def _told(name, names):
    return f"{name}, not {', '.join(other for other in names if other != name)}"


def lines_of(path):
    """Return the lines of a list that aren't empty, without surrounding space."""
    lines = [line.strip() for line in coco_files.read_text(path).splitlines()]
    return [line for line in lines if line]


def _readings(line):
    """Yield what a line may name: an image, and its mask or None."""
    name, tab, rest = line.partition("\t")
    if not tab:
        columns = _COLUMNS.fullmatch(line)
        if columns is None or _COLUMNS.fullmatch(last_part(line)):
            yield line, None
        if columns is None:
            yield re.sub(r"\s-?[01]$", "", line), None
            return
        name, rest = columns.groups()
    yield name, None if _FLAG.fullmatch(rest.strip()) else rest


def last_part(path):
    """Return the last part of a path, also one of Windows or in quotes."""
    return _unquoted(path).replace("\\", "/").rpartition("/")[2]


def _unquoted(path):
    return path.strip().strip("\"'")


def check_folder(folder):
    """Check that a folder exists.

    Raises:
        FileNotFoundError: if it doesn't.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"Expected a folder. Received: {folder!r}")


def stems_of(folder, endings):
    """Return a dict from stems to a folder's files with the given endings, in order."""
    check_folder(folder)
    return _by_stem(sorted(os.listdir(folder)), endings)


def _by_stem(names, endings):
    stems = collections.defaultdict(list)
    for name in names:
        stem, ending = os.path.splitext(name)
        if ending.lower() in endings:
            stems[stem].append(name)
    for of_one in stems.values():
        of_one.sort(key=lambda name: endings.index(os.path.splitext(name)[1].lower()))
    return dict(stems)


def _files(folder, endings, without=None):
    """Return the files with the given endings in a folder and its folders, sorted."""
    found, without = [], without and os.path.realpath(without)
    for place, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if name[0] != "." and os.path.realpath(os.path.join(place, name)) != without
        ]
        found += [
            os.path.relpath(os.path.join(place, name), folder)
            for name in names
            if name.lower().endswith(endings) and name[0] != "."
        ]
    return sorted(found)
