"""Photographs to batches: sources, prepared data sets, splits by content, augmentation."""

from __future__ import annotations

from millijoule.data.augmentation import Augmentation
from millijoule.data.batches import batch_count, batches
from millijoule.data.contact_sheet import contact_sheet, write_contact_sheet
from millijoule.data.given_split import GivenSplits, read_splits
from millijoule.data.manifest import Manifest, NearDuplicate, PictureEntry, SkippedPicture
from millijoule.data.prepare import prepare
from millijoule.data.prepared import Pictures, PreparedSet, Split, calibration_set, open_prepared
from millijoule.data.sources import SOURCE_KINDS, Source, open_source

__all__ = [
    "SOURCE_KINDS",
    "Augmentation",
    "GivenSplits",
    "Manifest",
    "NearDuplicate",
    "PictureEntry",
    "Pictures",
    "PreparedSet",
    "SkippedPicture",
    "Source",
    "Split",
    "batch_count",
    "batches",
    "calibration_set",
    "contact_sheet",
    "open_prepared",
    "open_source",
    "prepare",
    "read_splits",
    "write_contact_sheet",
]
