"""Seeing failure coming: tokens at risk, what was known then, predictors of an onset within the next tokens,
how they are judged on prompts that they have not seen, and the same risk while a run goes on.

Reads finished conditions. Failure is here a loop or an overrun, not a wrong answer. Knows nothing of models
or of how a run is made, of figures or sentences, and acts on no alarm.
"""

from kvhelpers.hazard.baselines import PROPOSED
from kvhelpers.hazard.events import Event, event_of
from kvhelpers.hazard.features import FAMILIES, FeatureStream, check_causal, family_names, run_features
from kvhelpers.hazard.incidence import incidence_curves
from kvhelpers.hazard.model import HazardModel, fit, read_model
from kvhelpers.hazard.online import OnlineScorer
from kvhelpers.hazard.risk_set import RiskSet, build, read_risk_set
from kvhelpers.hazard.run_alarms import alarm_tokens, judge_alarms
from kvhelpers.hazard.scrutiny import make_scrutiny
from kvhelpers.hazard.splits import prompt_splits
from kvhelpers.hazard.study import Study, StudySettings, describe_runs, make_study, read_study

__all__ = [
    "FAMILIES",
    "PROPOSED",
    "Event",
    "FeatureStream",
    "HazardModel",
    "OnlineScorer",
    "RiskSet",
    "Study",
    "StudySettings",
    "alarm_tokens",
    "build",
    "check_causal",
    "describe_runs",
    "event_of",
    "family_names",
    "fit",
    "incidence_curves",
    "judge_alarms",
    "make_scrutiny",
    "make_study",
    "prompt_splits",
    "read_model",
    "read_risk_set",
    "read_study",
    "run_features",
]
