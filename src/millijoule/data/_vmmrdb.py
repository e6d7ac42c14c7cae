"""VMMRdb: one folder per make_model_year, ten Most Stolen Vehicles classes as unions of such folders.

VMMRdb: Tafazzoli, Frigui, Nishiyama, "A large and diverse dataset for improved vehicle make and model recognition",
CVPR Workshops 2017. The Most Stolen Vehicles subset is the one of the paper this project began from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from millijoule.data._folder import FileSource, PictureFile, list_folders, list_pictures
from millijoule.errors import DataError, OptionError

__all__ = ["MSV_CLASSES", "VehicleClass", "VmmrdbSource"]


@dataclass(frozen=True)
class VehicleClass:
    """A class as a union of folders: one make, one or more models, a range of years, trims that count too."""

    name: str
    models: tuple[str, ...]
    first_year: int
    last_year: int
    trims: tuple[str, ...] = ()

    def folders(self, year: int) -> list[str]:
        """The folder names of one year, the model without a trim first."""
        return [f"{model}{trim}_{year}" for model in self.models for trim in ("", *(f"_{trim}" for trim in self.trims))]


MSV_CLASSES: tuple[VehicleClass, ...] = (
    VehicleClass("honda_civic", ("honda_civic",), 1997, 1998),
    VehicleClass("honda_accord", ("honda_accord",), 1996, 1997),
    VehicleClass("ford_f150", ("ford_f150",), 2005, 2007),
    VehicleClass("chevrolet_silverado", ("chevrolet_silverado",), 2003, 2004),
    VehicleClass("toyota_camry", ("toyota_camry",), 2012, 2014, ("le", "se", "xle")),
    VehicleClass("nissan_altima", ("nissan_altima",), 2013, 2015),
    VehicleClass("toyota_corolla", ("toyota_corolla",), 2011, 2013, ("ce", "le", "s")),
    VehicleClass("dodge_ram_1500", ("dodge_ram_1500",), 1995, 2001),
    VehicleClass("gmc_sierra_1500", ("gmc_sierra_1500",), 2007, 2013),
    VehicleClass("chevrolet_impala", ("chevrolet_impala",), 2007, 2009),
)

_SUBSETS: dict[str, tuple[VehicleClass, ...]] = {
    "msv": MSV_CLASSES,
    # Some users of the data set count the 2500 among the Sierras.
    "msv_sierra_2500": tuple(
        VehicleClass(item.name, (*item.models, "gmc_sierra_2500"), item.first_year, item.last_year)
        if item.name == "gmc_sierra_1500"
        else item
        for item in MSV_CLASSES
    ),
}


class VmmrdbSource(FileSource):
    """The Most Stolen Vehicles of a VMMRdb tree.

    The root is listed once; only the folders that belong to a class are opened. `report` says per class which folders
    matched, which years are missing, which matched folders are empty, and which look related but are not part of the
    class by its definition (an unknown trim or series in the same years) and are therefore left out as ambiguous.

    Args:
        root: the folder that holds the make_model_year folders.
        subset: "msv", or "msv_sierra_2500" that adds the GMC Sierra 2500 to the 1500.

    Raises:
        DataError: missing or empty root, or a class without any picture.
        OptionError: unknown subset.
    """

    kind = "vmmrdb"

    def __init__(self, root: Path, subset: str = "msv") -> None:
        if subset not in _SUBSETS:
            raise OptionError(
                f"subset {subset!r}", "VMMRdb has no such subset here", f"Use one of {', '.join(_SUBSETS)}"
            )
        definitions = _SUBSETS[subset]
        folders = list_folders(root)
        if not folders:
            raise DataError(str(root), "it is empty", "Unpack VMMRdb there, one folder per make_model_year")
        by_name: dict[str, list[str]] = {}
        for folder in folders:
            by_name.setdefault(re.sub(r"[\s\-]+", "_", folder.lower()), []).append(folder)

        files: list[tuple[int, PictureFile]] = []
        classes_report = {}
        for label, definition in enumerate(definitions):
            matched: dict[str, int] = {}
            missing: list[int] = []
            for year in range(definition.first_year, definition.last_year + 1):
                present = [folder for name in definition.folders(year) for folder in by_name.get(name, ())]
                if not present:
                    missing.append(year)
                for folder in present:
                    pictures = list_pictures(root, folder)
                    matched[folder] = len(pictures)
                    files.extend((label, picture) for picture in pictures)
            classes_report[definition.name] = {
                "matched": matched,
                "missing_years": missing,
                "empty": [folder for folder, count in matched.items() if count == 0],
                "ambiguous": _ambiguous(definition, by_name),
            }
        report = {"subset": subset, "folders": len(folders), "classes": classes_report}
        without = [item.name for index, item in enumerate(definitions) if all(label != index for label, _ in files)]
        if len(without) == len(definitions):
            raise DataError(
                str(root),
                f"none of its {len(folders)} folders belongs to the Most Stolen Vehicles",
                "Give the folder that holds folders such as honda_civic_1997",
            )
        if without:
            raise DataError(
                str(root),
                f"it has no picture of class {', '.join(without)}",
                "Complete the tree, see the names in the manual",
            )
        super().__init__(root, [item.name for item in definitions], files)
        self.report = report


def _ambiguous(definition: VehicleClass, by_name: dict[str, list[str]]) -> list[str]:
    """Folders of the same model and years with a trim or series that the definition does not name."""
    series = {re.sub(r"_\d+$", "", model) for model in definition.models}
    found = []
    for name, folders in by_name.items():
        match = re.fullmatch(r"(.+)_(\d{4})", name)
        if match is None:
            continue
        model, year = match[1], int(match[2])
        if not definition.first_year <= year <= definition.last_year or name in definition.folders(year):
            continue
        if any(model == stem or model.startswith(f"{stem}_") for stem in series):
            found.extend(folders)
    return sorted(found)
