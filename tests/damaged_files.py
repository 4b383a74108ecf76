"""Random damages to files that are read, and what must hold for all of them."""

import copy
import json
from xml.etree import ElementTree

MUTATIONS = 500


def places_in(value, path=()):
    """Return the paths of all values in nested lists and dicts."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places_in(inner, (*path, key))


STRANGE = [None, "", "x", -1, 0, 1e9, 0.5, "7", True, [], {}, [1, 2], float("nan")]


def damage(content, rng):
    """Remove, double, rename, shuffle or change a value, in place."""
    paths = list(places_in(content))
    if not paths:  # nothing is left
        return
    path = rng.choice(paths)
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    key, kind = path[-1], rng.choice("removed doubled renamed shuffled strange".split())
    if kind == "removed":
        del parent[key]
    elif kind == "doubled" and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif kind == "renamed" and isinstance(parent, dict):
        parent[f"{key}s"] = parent.pop(key)
    elif kind == "shuffled" and isinstance(parent[key], list):
        rng.shuffle(parent[key])
    else:
        parent[key] = rng.choice(STRANGE)


def damage_json(path, rng):
    content = json.loads(path.read_text())
    for _ in range(rng.randint(1, 3)):
        damage(content, rng)
    path.write_text(json.dumps(content))


def damage_xml(path, rng):
    root = ElementTree.fromstring(path.read_text())
    for _ in range(rng.randint(1, 3)):
        parent = rng.choice([e for e in root.iter() if len(e)] or [root])
        kind = rng.choice(["removed", "doubled", "renamed", "shuffled", "strange"])
        if not len(parent) or kind == "strange":
            element = rng.choice(list(root.iter()))
            element.text = str(rng.choice(STRANGE))
            for key in element.attrib:
                element.attrib[key] = str(rng.choice([element.attrib[key], *STRANGE]))
        elif kind == "shuffled":
            inner = list(parent)
            rng.shuffle(inner)
            parent[:] = inner
        else:
            element = rng.choice(list(parent))
            if kind == "removed":
                parent.remove(element)
            elif kind == "doubled":
                parent.append(copy.deepcopy(element))
            else:
                element.tag = rng.choice(["object", "box", "name", "image", "other"])
    path.write_text(ElementTree.tostring(root, encoding="unicode"))


def damage_lines(path, rng):
    lines = [line.split() for line in path.read_text().splitlines()]
    for _ in range(rng.randint(1, 3)):
        damage(lines, rng)
    words = [line if isinstance(line, list) else [line] for line in lines]
    path.write_text("\n".join(" ".join(map(str, line)) for line in words))


DAMAGES = {".json": damage_json, ".xml": damage_xml, ".txt": damage_lines}


def files_of(place):
    return {place: place.read_text()} if place.is_file() else {
        path: path.read_text() for path in sorted(place.iterdir())
    }  # fmt: skip


def read_damaged(read, files, rng, rounds):
    """Read damaged files again and again; return how many could be read."""
    could = 0
    for _ in range(rounds):
        for path, text in files.items():
            path.write_text(text)
        path = rng.choice([path for path, text in files.items() if text])
        DAMAGES[path.suffix](path, rng)
        try:
            book = read()
        except (ValueError, OSError) as error:
            text = str(error)
            assert text.startswith("Expected"), text
            assert "to be accounted for" not in text and "\n" not in text, text
        else:
            could += 1
            for account in (book.images, book.labels):
                assert account.went.total() == account.held
    return could
