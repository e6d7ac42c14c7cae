"""The paper's study as resumable stages: photographs in, models, firmware figures and a report out."""

from __future__ import annotations

from millijoule.study.options import Analysis, DataOptions, MixedPlan, QatPlan, StaticPlan, StudyOptions, demo_options
from millijoule.study.pipeline import clear_run, run_study
from millijoule.study.progress import QuietReporter, Reporter, RichReporter
from millijoule.study.results import SCHEMA, Deployment, MethodFacts, Study
from millijoule.study.summary import summary

__all__ = [
    "SCHEMA",
    "Analysis",
    "DataOptions",
    "Deployment",
    "MethodFacts",
    "MixedPlan",
    "QatPlan",
    "QuietReporter",
    "Reporter",
    "RichReporter",
    "StaticPlan",
    "Study",
    "StudyOptions",
    "clear_run",
    "demo_options",
    "run_study",
    "summary",
]
