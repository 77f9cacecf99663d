"""The CPU install stays small (promise P8): the dependencies, theirs included, take under 200 MB on disk."""

import re
from importlib.metadata import PackageNotFoundError, distribution


def runtime_distributions(root: str) -> dict[str, int]:
    """Bytes of every distribution that `root` needs without extras, `root` itself left out."""
    sizes: dict[str, int] = {}
    queue = [root]
    while queue:
        try:
            found = distribution(queue.pop())
        except PackageNotFoundError:
            continue  # a requirement for another platform or Python
        name = found.name.lower().replace("_", "-")
        if name in sizes:
            continue
        sizes[name] = sum(path.stat().st_size for f in found.files or () if (path := f.locate()).is_file())  # type: ignore[attr-defined]
        needs = [need for need in found.requires or () if "extra ==" not in need]
        queue += [re.split(r"[^A-Za-z0-9._-]", need, maxsplit=1)[0] for need in needs]
    return {name: size for name, size in sizes.items() if name != root}


def test_dependencies_are_small() -> None:
    sizes = runtime_distributions("plait")
    assert "numpy" in sizes
    assert "torch" not in sizes
    assert sum(sizes.values()) < 200e6, sorted(sizes.items(), key=lambda item: -item[1])[:8]
